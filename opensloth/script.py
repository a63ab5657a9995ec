"""A job as a bare TRL script that gives the same losses, so that nobody is locked in. Imports no torch."""

from __future__ import annotations

import pprint
import re
from dataclasses import dataclass
from typing import Any

from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.script_parts.methods import PACKAGE, MethodScript, method_script
from opensloth.script_parts.source import body

READERS = {
    "jsonl": "[json.loads(line) for line in open(path, encoding='utf-8-sig') if line.strip()]",
    "json": "json.load(open(path, encoding='utf-8-sig'))",
    "csv": "list(csv.DictReader(open(path, encoding='utf-8-sig', newline='')))",
    "parquet": "pyarrow.parquet.read_table(path).to_pylist()",
}


@dataclass(frozen=True)
class ScriptSource:
    """What a script is made from: a job's resolved config, and the names that its defaults show.

    `base` is a hub id or directory, `adapter` a directory of the adapter that training goes on from, `data` and
    `eval_data` files in `container`. `world_size` processes become accumulation on one.
    """

    title: str
    opensloth_config: OpenSlothConfig
    training_args: TrainingArguments
    engine: str
    device: str
    base: str
    data: str
    container: str = "jsonl"
    adapter: str | None = None
    eval_data: str | None = None
    eval_container: str = "jsonl"
    world_size: int = 1


def render_script(source: ScriptSource) -> str:
    """The script's text; `python SCRIPT --model DIR --data FILE` runs it."""
    method = method_script(source.opensloth_config, _arguments(source), source.device)
    parts = [
        _head(source),
        _imports(source, method),
        _carried(source, method),
        _read(source),
        "\n\n\n".join(filter(None, [method.prepare, method.after])),
        _model(source, method),
        _main(source, method),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(source: ScriptSource) -> str:
    title = re.sub(r"[^\w .:/+-]", "?", source.title)
    packages = "torch transformers==5.17.0 trl==1.14.2 peft==0.21.2 datasets==4.8.5"
    if source.engine == "unsloth":
        packages += " unsloth==2026.10.9"
    return f'''"""{title}: {source.opensloth_config.training_type} by plain TRL, with the losses of the job.

pip install {packages}
"""'''


def _imports(source: ScriptSource, method: MethodScript) -> str:
    lines = [
        "import argparse",
        "import csv",
        "import json",
        "import math",
        "import random",
        "from bisect import bisect_left, bisect_right, insort",
        "from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence",
        "from dataclasses import dataclass",
        "from itertools import accumulate, pairwise",
        "from typing import Any",
        "import peft",
        "import torch",
        "from datasets import Dataset",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, EarlyStoppingCallback",
        *method.imports,
    ]
    if "parquet" in (source.container, source.eval_container):
        lines.append("import pyarrow.parquet")
    first = ["from __future__ import annotations"]
    if source.engine == "unsloth":
        first.append("from unsloth import FastLanguageModel  # before transformers, TRL and PEFT")
    return "\n".join([*first, *dict.fromkeys(lines)])


def _carried(source: ScriptSource, method: MethodScript) -> str:
    """Our own functions, as they are, without their imports."""
    names = [*method.carried, *(["datasets/split.py"] if _splits(source) else [])]
    sources = [body(PACKAGE / name) for name in names]
    return "# What is trained on: as OpenSloth does it.\n\n" + "\n\n\n".join(sources)


def _splits(source: ScriptSource) -> bool:
    """Whether a share of the training rows is kept for evaluation."""
    return source.opensloth_config.eval_split is not None and source.eval_data is None


def _read(source: ScriptSource) -> str:
    lines = [f"def read_rows(path: str) -> list:\n    return {READERS[source.container]}"]
    if source.eval_data is not None:
        lines.append(f"def read_eval_rows(path: str) -> list:\n    return {READERS[source.eval_container]}")
    return "\n\n\n".join(lines)


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
            'quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            f"bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.{dtype})"
        )
    lines = [
        "def load(name: str, adapter: str | None) -> tuple:",
        f"    model = AutoModelForCausalLM.from_pretrained(name, {', '.join(options)})",
    ]
    if args.load_in_4bit or args.load_in_8bit:
        checkpointing = bool(arguments.gradient_checkpointing)
        lines.append(
            f"    model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing={checkpointing})"
        )
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
    extra, before = list(method.options), list(method.before)
    rows = "read_rows(options.data)"
    if source.eval_data is not None:
        extra.append('eval_dataset=prepare(read_eval_rows(options.eval_data), tokenizer, "eval"),')
    elif _splits(source):
        seed = source.training_args.data_seed
        drawn = f"rows, {config.eval_split}, {source.training_args.seed if seed is None else seed}"
        extra.append(f'eval_dataset=prepare(list(Part({drawn}, kept=True)), tokenizer, "eval"),')
        rows = f"list(Part({drawn}, kept=False))"
    if config.early_stopping_patience is not None:
        patience = f"{config.early_stopping_patience}, {config.early_stopping_threshold}"
        extra.append(f"callbacks=[EarlyStoppingCallback({patience})],")
    if method.adapter_by_trl and _adds_adapter(source):
        extra.append("peft_config=lora(),")
        assert config.lora_args is not None
        before.append(f"torch.manual_seed({config.lora_args.random_state})")
    read = "    rows = read_rows(options.data)\n" if _splits(source) else ""
    lines = "".join(f"    {line}\n" for line in before)
    more = "".join(f"        {line}\n" for line in extra)
    evaluation = source.eval_data is not None
    eval_option = f'    parser.add_argument("--eval-data", default={source.eval_data!r})\n' if evaluation else ""
    return f"""ARGUMENTS = {_literal(method.values, 0)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default={source.base!r}, help="hub id or directory")
    parser.add_argument("--adapter", default={source.adapter!r}, help="directory of the adapter to go on from")
    parser.add_argument("--data", default={source.data!r})
{eval_option}    parser.add_argument("--output", default="output")
    options = parser.parse_args()
    model, tokenizer = load(options.model, options.adapter)
    arguments = {method.config_class}(**ARGUMENTS | {{"output_dir": options.output}})
{read}    train_dataset = prepare({rows}, tokenizer)
{lines}    trainer = {method.trainer_class}(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        processing_class=tokenizer,
{more}    )
    trainer.train()
    trainer.save_model(options.output)


if __name__ == "__main__":
    main()"""


def _literal(value: dict[str, Any], indent: int = 4) -> str:
    """A dict as Python source."""
    text = pprint.pformat(value, width=100, sort_dicts=False)
    return text.replace("\n", "\n" + " " * indent)
