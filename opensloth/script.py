"""A job as a bare TRL script that gives the same losses, so that nobody is locked in. Imports no torch."""

from __future__ import annotations

import pprint
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.trl_arguments import dpo_arguments, sft_arguments

CARRIED = ("masks.py", "encode.py", "pack.py")
"""Modules of `opensloth.datasets` whose source the script carries: what is trained on is decided there."""

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
    config = source.opensloth_config
    method = _sft(source) if config.training_type == "sft" else _dpo(source)
    parts = [_head(source), _imports(source), _carried(source), _read(source), method, _model(source), _main(source)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(source: ScriptSource) -> str:
    title = re.sub(r"[^\w .:/+-]", "?", source.title)
    packages = "torch transformers==5.17.0 trl==1.14.2 peft==0.21.2 datasets==4.8.5"
    if source.engine == "unsloth":
        packages += " unsloth==2026.10.9"
    return f'''"""{title}: {source.opensloth_config.training_type} by plain TRL, with the losses of the job.

pip install {packages}
"""'''


def _imports(source: ScriptSource) -> str:
    config = source.opensloth_config
    lines = ["from __future__ import annotations", ""]
    if source.engine == "unsloth":
        lines += ["from unsloth import FastLanguageModel  # before transformers, TRL and PEFT", ""]
    lines += [
        "import argparse",
        "import csv",
        "import json",
        "from bisect import bisect_left, insort",
        "from collections.abc import Callable, Mapping, Sequence",
        "from dataclasses import dataclass",
        "from itertools import pairwise",
        "from typing import Any",
        "",
        "import peft",
        "import torch",
        "from datasets import Dataset",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig",
        "from trl import SFTConfig, SFTTrainer"
        if config.training_type == "sft"
        else "from trl import DPOConfig, DPOTrainer",
    ]
    if "parquet" in (source.container, source.eval_container):
        lines.insert(-3, "import pyarrow.parquet")
    return "\n".join(lines)


def _carried(source: ScriptSource) -> str:
    """Our own functions, as they are, without their imports."""
    names = [*CARRIED, "collate.py"] if source.opensloth_config.training_type == "sft" else list(CARRIED[:2])
    folder = Path(__file__).parent / "datasets"
    sources = [_body((folder / name).read_text()) for name in names]
    return "# What is trained on: as OpenSloth does it.\n\n" + "\n\n\n".join(sources)


def _body(text: str) -> str:
    """A module's source behind its docstring and imports; `IGNORE` is defined once."""
    _, _, body = text.partition("from __future__ import annotations\n")
    lines = body.splitlines()
    while lines and (not lines[0].strip() or lines[0].startswith(("import ", "from "))):
        lines.pop(0)
    return "\n".join(lines).strip("\n")


def _read(source: ScriptSource) -> str:
    lines = [f"def read_rows(path: str) -> list:\n    return {READERS[source.container]}"]
    if source.eval_data is not None:
        lines.append(f"def read_eval_rows(path: str) -> list:\n    return {READERS[source.eval_container]}")
    return "\n\n\n".join(lines)


def _sft(source: ScriptSource) -> str:
    config = source.opensloth_config
    longest = config.fast_model_args.max_seq_length
    if config.filter_overlength_samples:
        fit = f"samples = [s for s in samples if len(s.input_ids) <= {longest}]"
    else:
        fit = f"samples = [Encoded(s.input_ids[:{longest}], s.labels[:{longest}]) for s in samples]"
    lines = [
        "def prepare(rows: list, tokenizer: Any) -> Dataset:",
        f"    samples = encode_sft(rows, tokenizer, {config.loss_on!r})",
        f"    {fit}",
        "    samples = [s for s in samples if any(label != IGNORE for label in s.labels)]",
    ]
    if config.sequence_packing:
        lines += [
            f"    groups = pack([len(s.input_ids) for s in samples], {longest})",
            "    packed = [",
            "        {",
            '            "input_ids": [token for i in group for token in samples[i].input_ids],',
            '            "labels": [label for i in group for label in samples[i].labels],',
            '            "seq_lengths": [len(samples[i].input_ids) for i in group],',
            "        }",
            "        for group in groups",
            "    ]",
            "    return Dataset.from_list(packed)",
        ]
    else:
        lines.append('    return Dataset.from_list([{"input_ids": s.input_ids, "labels": s.labels} for s in samples])')
    return "\n".join(lines)


def _dpo(source: ScriptSource) -> str:
    config = source.opensloth_config
    dpo = config.dpo_args
    assert dpo is not None
    prompt = "p.prompt_ids" if dpo.max_prompt_length is None else f"p.prompt_ids[-{dpo.max_prompt_length}:]"
    keep = "max(len(chosen), len(rejected)) <= room" if config.filter_overlength_samples else "room > 0"
    return f"""def prepare(rows: list, tokenizer: Any) -> Dataset:
    pairs = []
    for p in encode_dpo(rows, tokenizer):
        prompt, chosen, rejected = {prompt}, p.chosen_ids, p.rejected_ids
        room = {dpo.max_length} - len(prompt)
        if {keep} and chosen and rejected:
            pairs.append({{"prompt_ids": prompt, "chosen_ids": chosen[:room], "rejected_ids": rejected[:room]}})
    return Dataset.from_list(pairs)


{_body((Path(__file__).parent / "training" / "methods" / "pairs.py").read_text())}


class PairTrainer(MeanOverPairs, DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # the pairs are tokenized, with their prompts cut"""


def _model(source: ScriptSource) -> str:
    """Loading the model; with a new adapter for DPO, TRL adds it itself, so that the base is the reference."""
    return _unsloth_model(source) if source.engine == "unsloth" else _transformers_model(source)


def _transformers_model(source: ScriptSource) -> str:
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
    elif config.lora_args is not None and config.training_type == "sft":
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


def _main(source: ScriptSource) -> str:
    config, training_args = source.opensloth_config, source.training_args.model_copy(deep=True)
    if source.world_size > 1:
        training_args.gradient_accumulation_steps *= source.world_size
    training_args.output_dir = "output"
    training_args.resume_from_checkpoint = None
    training_args.save_strategy = training_args.save_strategy or "no"
    evaluation = source.eval_data is not None
    extra: list[str] = []
    if config.training_type == "sft":
        values, config_class, trainer_class = sft_arguments(training_args, source.device), "SFTConfig", "SFTTrainer"
        if config.sequence_packing:
            extra.append("data_collator=PackedCollator(tokenizer.pad_token_id, counts=False),")
    else:
        assert config.dpo_args is not None
        values = dpo_arguments(training_args, source.device, config.dpo_args)
        config_class, trainer_class = "DPOConfig", "PairTrainer"
        if _adds_adapter(source):
            extra.append("peft_config=lora(),")
    if evaluation:
        extra.append("eval_dataset=prepare(read_eval_rows(options.eval_data), tokenizer),")
    seeded = config.training_type == "dpo" and _adds_adapter(source)
    seed = f"    torch.manual_seed({config.lora_args.random_state})\n" if seeded and config.lora_args else ""
    more = "".join(f"        {line}\n" for line in extra)
    eval_option = f'    parser.add_argument("--eval-data", default={source.eval_data!r})\n' if evaluation else ""
    return f"""ARGUMENTS = {_literal(values, 0)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default={source.base!r}, help="hub id or directory")
    parser.add_argument("--adapter", default={source.adapter!r}, help="directory of the adapter to go on from")
    parser.add_argument("--data", default={source.data!r})
{eval_option}    parser.add_argument("--output", default="output")
    options = parser.parse_args()
    model, tokenizer = load(options.model, options.adapter)
    arguments = {config_class}(**ARGUMENTS | {{"output_dir": options.output}})
    train_dataset = prepare(read_rows(options.data), tokenizer)
{seed}    trainer = {trainer_class}(
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
