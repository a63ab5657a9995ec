"""A job as a bare TRL script that gives the same losses, so that nobody is locked in. Imports no torch."""

from __future__ import annotations

import pprint
import re
from dataclasses import dataclass
from typing import Any

from opensloth.integrations import WandbIntegration
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.script_parts.carry import Carried
from opensloth.script_parts.data import IMPORTS as DATA_IMPORTS
from opensloth.script_parts.data import DataFile, DataSource, data_source
from opensloth.script_parts.imports import bound, import_block, outside_packages
from opensloth.script_parts.methods import MethodScript, method_script
from opensloth.script_parts.source import defined_in

IMPORTS = (
    *DATA_IMPORTS,
    "import argparse",
    "import math",
    "import os",
    "import re",
    "import signal",
    "from collections.abc import Callable",
    "from itertools import takewhile",
    "from pathlib import Path",
    "from typing import Any",
    "import peft",
    "import torch",
    "from datasets import Dataset",
    "from transformers import AutoModelForCausalLM",
    "from transformers import AutoTokenizer",
    "from transformers import BitsAndBytesConfig",
    "from transformers import EarlyStoppingCallback",
)
"""What some script uses of other packages; each gets what it uses."""
VERSIONS = {"transformers": "5.17.0", "trl": "1.14.2", "peft": "0.21.2", "datasets": "4.8.5", "unsloth": "2026.10.9"}
PACKAGES = {"math_verify": "math-verify"}
"""Packages that are imported by another name."""

SPLIT = '''def split_off(rows: list, share: float, seed: int) -> tuple:
    """The rows that are trained on, and those that are kept for evaluation."""
    drawn = set(takewhile(lambda place: place < len(rows), _draws(share, seed)))
    kept = [row for place, row in enumerate(rows) if place in drawn]
    return [row for place, row in enumerate(rows) if place not in drawn], kept'''


@dataclass(frozen=True)
class ScriptSource:
    """What a script is made from: a job's resolved config, and the names that its defaults show.

    `base` is a hub id or directory, `adapter` a directory of the adapter that training goes on from. `world_size`
    processes become accumulation on one.
    """

    title: str
    opensloth_config: OpenSlothConfig
    training_args: TrainingArguments
    engine: str
    device: str
    base: str
    data: DataFile
    adapter: str | None = None
    eval_data: DataFile | None = None
    world_size: int = 1
    wandb: WandbIntegration | None = None


def render_script(source: ScriptSource) -> str:
    """The script's text; `python SCRIPT --model DIR --data FILE` runs it."""
    method = method_script(source.opensloth_config, _arguments(source), source.device)
    data = data_source(source.opensloth_config.training_type, source.data, source.eval_data)
    own = [
        *([SPLIT] if _splits(source) else []),
        method.prepare,
        *filter(None, [method.after]),
        _model(source, method),
        _main(source, method),
    ]
    own_code = "\n\n\n".join(part.strip("\n") for part in [data.source, *own])
    carried = _carried(source, method, data, own_code)
    code = f"{carried.source}\n\n\n{own_code}"
    imports = import_block(code, [*IMPORTS, *method.imports, *carried.imports])
    first = "from __future__ import annotations\n\n"
    if source.engine == "unsloth":
        first += "from unsloth import FastLanguageModel  # before transformers, TRL and PEFT\n\n"
    whole = f"{first}{imports}\n\n{code}\n"
    return f"{_head(source, outside_packages(whole))}\n\n{whole}"


def _head(source: ScriptSource, modules: set[str]) -> str:
    title = re.sub(r"[^\w .:/+-]", "?", source.title)
    names = ["torch", "transformers", "trl", "peft", "datasets"]
    names += sorted(modules - {*names, "accelerate", "pyarrow"})
    packages = " ".join(
        PACKAGES.get(name, name) + (f"=={VERSIONS[name]}" if name in VERSIONS else "") for name in names
    )
    return f'''"""{title}: {source.opensloth_config.training_type} by plain TRL, with the losses of the job.

{_about_devices(source)}{_about_reports(source)}pip install {packages}
"""'''


def _about_devices(source: ScriptSource) -> str:
    """What is to be known of a job that several processes trained."""
    if source.world_size == 1:
        return ""
    text = f"The job ran on {source.world_size} devices, whose batches are accumulated here on one"
    if source.opensloth_config.training_type == "grpo":
        text += "; each sampled its own answers,\nso that losses differ as with another seed"
    if source.opensloth_config.shard_weights:
        text += ",\nwhich holds the whole model: each of those held a part of it"
    return f"{text}.\n\n"


def _about_reports(source: ScriptSource) -> str:
    if source.wandb is None:
        return ""
    return "With --wandb it reports to Weights & Biases, as the job does (pip install wandb; wandb login).\n\n"


def _wandb_variables(wandb: WandbIntegration) -> dict[str, str]:
    """What transformers and the package read."""
    values = {"PROJECT": wandb.project, "NAME": wandb.name, "ENTITY": wandb.entity, "TAGS": ",".join(wandb.tags)}
    return {f"WANDB_{name}": value for name, value in values.items() if value}


def _carried(source: ScriptSource, method: MethodScript, data: DataSource, own_code: str) -> Carried:
    """Our own functions, as they are, beside the script's own code."""
    roots = [*data.roots, *method.roots]
    if _splits(source):
        roots.append(("opensloth.datasets.split", "_draws"))
    reserved = {bound(statement) for statement in (*IMPORTS, *method.imports)} | defined_in(own_code)
    return Carried(roots, reserved, method.replaced, method.also)


def _splits(source: ScriptSource) -> bool:
    """Whether a share of the training rows is kept for evaluation."""
    return source.opensloth_config.eval_split is not None and source.eval_data is None


def _model(source: ScriptSource, method: MethodScript) -> str:
    """Loading the model; where there is a reference, TRL adds a new adapter itself, so that the base is it."""
    return _unsloth_model(source) if source.engine == "unsloth" else _transformers_model(source, method)


def _transformers_model(source: ScriptSource, method: MethodScript) -> str:
    config, arguments = source.opensloth_config, source.training_args
    args = config.fast_model_args
    dtype = "float32"
    if source.device == "cuda" and not args.full_finetuning:
        dtype = "float16" if arguments.fp16 else "bfloat16"
    options = [f"dtype=torch.{dtype}", "use_safetensors=True"]
    if source.device == "cuda":
        options.append('device_map={"": 0}')
    if args.load_in_8bit:
        options.append("quantization_config=BitsAndBytesConfig(load_in_8bit=True)")
    elif args.load_in_4bit:
        options.append(
            'quantization_config=BitsAndBytesConfig(\n            load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            f"bnb_4bit_use_double_quant=True,\n            bnb_4bit_compute_dtype=torch.{dtype},\n        )"
        )
    lines = [
        "def load(name: str, adapter: str | None) -> tuple:",
        "    model = AutoModelForCausalLM.from_pretrained(",
        "        name,",
        *(f"        {option}," for option in options),
        "    )",
    ]
    if args.load_in_4bit or args.load_in_8bit:
        lines += ["    model.requires_grad_(False)", "    model.enable_input_require_grads()"]
    if source.adapter is not None:
        lines.append("    model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)")
        lines.append('    model.peft_config["default"].base_model_name_or_path = name')
    elif config.lora_args is not None and not method.adapter_by_trl:
        lines.append(f"    torch.manual_seed({config.lora_args.random_state})")
        lines.append("    model = peft.get_peft_model(model, lora())")
    lines += [
        '    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="right")',
        "    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token",
        "    return model, tokenizer",
    ]
    if _adds_adapter(source):
        assert config.lora_args is not None
        shape = _literal({"task_type": "CAUSAL_LM", **config.lora_args.model_dump(exclude={"random_state"})})
        lines = [f"def lora() -> peft.LoraConfig:\n    return peft.LoraConfig(**{shape})\n\n", *lines]
    return "\n".join(lines)


def _unsloth_model(source: ScriptSource) -> str:
    config = source.opensloth_config
    arguments = config.fast_model_args.model_dump(exclude={"model_name", "use_gradient_checkpointing"})
    lines = [
        "def load(name: str, adapter: str | None) -> tuple:",
        f"    model, tokenizer = FastLanguageModel.from_pretrained(model_name=name, **{_literal(arguments)})",
        "    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token",
    ]
    if config.lora_args is not None:
        shape = config.lora_args.model_dump()
        shape["use_gradient_checkpointing"] = config.fast_model_args.use_gradient_checkpointing
        shape["max_seq_length"] = config.fast_model_args.max_seq_length
        lines.append(f"    model = FastLanguageModel.get_peft_model(model, **{_literal(shape)})")
    if source.adapter is not None:
        lines.append('    weights = peft.load_peft_weights(adapter, device="cpu")')
        lines.append("    peft.set_peft_model_state_dict(model, weights)")
    lines.append("    return model, tokenizer")
    return "\n".join(lines)


def _adds_adapter(source: ScriptSource) -> bool:
    return source.engine == "transformers" and source.adapter is None and source.opensloth_config.lora_args is not None


def _arguments(source: ScriptSource) -> TrainingArguments:
    """The job's arguments for one process."""
    training_args = source.training_args.model_copy(deep=True)
    if source.world_size > 1:
        training_args.gradient_accumulation_steps *= source.world_size
    training_args.output_dir = "output"
    training_args.resume_from_checkpoint = None
    training_args.save_strategy = training_args.save_strategy or "no"
    return training_args


def _main(source: ScriptSource, method: MethodScript) -> str:
    config = source.opensloth_config
    extra, first, before = list(method.options), list(method.first), list(method.before)
    rows = "read_rows(options.data)"
    if source.eval_data is not None:
        extra.append('eval_dataset=prepare(read_eval_rows(options.eval_data), tokenizer, "eval"),')
    elif _splits(source):
        seed = source.training_args.data_seed
        drawn = f"{config.eval_split}, {source.training_args.seed if seed is None else seed}"
        first.append(f"train_rows, eval_rows = split_off({rows}, {drawn})")
        extra.append('eval_dataset=prepare(eval_rows, tokenizer, "eval"),')
        rows = "train_rows"
    if config.early_stopping_patience is not None:
        patience = f"{config.early_stopping_patience}, {config.early_stopping_threshold}"
        extra.append(f"callbacks=[EarlyStoppingCallback({patience})],")
    if method.adapter_by_trl and _adds_adapter(source):
        extra.append("peft_config=lora(),")
        assert config.lora_args is not None
        before.append(f"torch.manual_seed({config.lora_args.random_state})")
    flags = [f'parser.add_argument("--data", default={source.data.name!r})']
    if source.eval_data is not None:
        flags.append(f'parser.add_argument("--eval-data", default={source.eval_data.name!r})')
    flags += method.flags
    chosen = '"output_dir": options.output'
    if source.wandb is not None:
        flags.append('parser.add_argument("--wandb", action="store_true", help="report to Weights & Biases")')
        first[:0] = ["if options.wandb:", f"    os.environ |= {_wandb_variables(source.wandb)!r}"]
        chosen += ', "report_to": "wandb" if options.wandb else "none"'
    return f"""ARGUMENTS = {_literal(method.values, 0)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default={source.base!r}, help="hub id or directory")
    parser.add_argument("--adapter", default={source.adapter!r}, help="directory of the adapter to go on from")
{_indented(flags)}    parser.add_argument("--output", default="output")
    options = parser.parse_args()
    model, tokenizer = load(options.model, options.adapter)
    arguments = {method.config_class}(**ARGUMENTS | {{{chosen}}})
{_indented(first)}    train_dataset = prepare({rows}, tokenizer)
{_indented(before)}    trainer = {method.trainer_class}(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        processing_class=tokenizer,
{_indented(extra, 8)}    )
    trainer.train()
    trainer.save_model(options.output)


if __name__ == "__main__":
    main()"""


def _indented(lines: list[str], by: int = 4) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in lines)


def _literal(value: dict[str, Any], indent: int = 4) -> str:
    """A dict as Python source."""
    text = pprint.pformat(value, width=100, sort_dicts=False)
    return text.replace("\n", "\n" + " " * indent)
