"""SFT and DPO side by side: `python examples/sft_vs_dpo_comparison.py`.

Every number is what `resolve` fills for this machine, not a copy of it, and the lines at the end train the two.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from opensloth.methods import METHODS
from opensloth.opensloth_config import FastModelArgs, OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, Resolved, resolve

DATASETS = Path(__file__).resolve().parent / "datasets"
DEVICES = {
    "a CPU": DeviceFacts("cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False),
    "a GPU with Unsloth": DeviceFacts("cuda", bf16=True, has_unsloth=True, has_bitsandbytes=True),
}
ROWS = {
    "learning rate": "training_args.learning_rate",
    "rows in a batch": "training_args.per_device_train_batch_size",
    "batches in a step": "training_args.gradient_accumulation_steps",
    "LoRA rank": "opensloth_config.lora_args.r",
    "LoRA alpha": "opensloth_config.lora_args.lora_alpha",
    "packs short rows": "opensloth_config.sequence_packing",
    "engine": "opensloth_config.engine",
    "base in 4 bits": "opensloth_config.fast_model_args.load_in_4bit",
    "optimizer": "training_args.optim",
    "bfloat16": "training_args.bf16",
}


def resolved_for(training_type: str, device: DeviceFacts) -> Resolved:
    """The configuration of a method in which the user set nothing."""
    config = OpenSlothConfig(training_type=training_type, fast_model_args=FastModelArgs(model_name="smollm2-135m"))
    return resolve(config, TrainingArguments(), device)


def value_at(resolved: Resolved, path: str) -> Any:
    """A field of the resolved configuration by its dotted path."""
    value: Any = resolved
    for part in path.split("."):
        value = getattr(value, part)
    return value


def print_table(device_name: str, device: DeviceFacts) -> None:
    """One line for each setting, a column for each method, and why it is so."""
    sides = {name: resolved_for(name, device) for name in ("sft", "dpo")}
    print(f"\nOn {device_name}")
    print(f"  {'':20}{'SFT':>16}{'DPO':>16}   why")
    for label, path in ROWS.items():
        values = [str(value_at(side, path)) for side in sides.values()]
        reasons = dict.fromkeys(side.why[path] for side in sides.values() if path in side.why)
        print(f"  {label:20}{values[0]:>16}{values[1]:>16}   {'; '.join(reasons)}")


def print_row(title: str, name: str) -> None:
    """The first row of a dataset, as the method reads it."""
    row = json.loads((DATASETS / name).open(encoding="utf-8").readline())
    print(f"\n{title} ({name})")
    for column, messages in row.items():
        for message in messages:
            print(f"  {column:9} {message['role']:10} {' '.join(message['content'].split())[:88]}")


def main() -> None:
    """Print the comparison."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("SFT shows the model good answers and raises their probability.")
    print("DPO shows it two answers to a prompt and widens the gap between them, near to where it started.")
    print_row("A row for SFT", "support_sft.jsonl")
    print_row("A row for DPO", "support_preferences.jsonl")
    for name, device in DEVICES.items():
        print_table(name, device)
    print(f"\nKnown methods: {', '.join(f'{method.name} ({method.title})' for method in METHODS.values())}")
    print("\nTrain the one and then the other from it:")
    print("  python train_scripts/train_qwen.py --output_dir outputs/sft_training")
    print("  python train_scripts/train_dpo_example.py --adapter outputs/sft_training")
    print("More in docs/DPO_TRAINING.md.")


if __name__ == "__main__":
    main()
