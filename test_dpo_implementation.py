"""Check DPO from configuration to a trained adapter, and print each check: `python test_dpo_implementation.py`.

Without `--model` it trains a tiny random model that it makes itself, in a few seconds on a CPU.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opensloth.errors import InvalidDataset, InvalidInput
from opensloth.opensloth_config import DPOArgs, FastModelArgs, OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, resolve

PAIRS = [
    {"prompt": "My chain is rusty.", "chosen": "Sorry! Oil it tonight.", "rejected": "That is your fault."},
    {"prompt": "Where is my order?", "chosen": "I will ask the carrier now.", "rejected": "We do not know."},
    {"prompt": "Can I return it?", "chosen": "Yes, within 30 days.", "rejected": "Read the terms."},
    {"prompt": "The light flickers.", "chosen": "Press the plug until it clicks.", "rejected": "It happens."},
]
LAPTOP = DeviceFacts("cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False)


def config_for(model: str, **fields: Any) -> OpenSlothConfig:
    """The DPO configuration that the checks share."""
    return OpenSlothConfig(
        data_cache_path="data/dpo_cache",
        training_type="dpo",
        fast_model_args=FastModelArgs(model_name=model, max_seq_length=256),
        dpo_args=DPOArgs(beta=0.1, max_length=256, max_prompt_length=128),
        **fields,
    )


def check_configuration(model: str, work: Path) -> str:
    """DPO's defaults fill what is not set."""
    resolved = resolve(config_for(model), TrainingArguments(), LAPTOP)
    args, config = resolved.training_args, resolved.opensloth_config
    assert (args.learning_rate, args.per_device_train_batch_size) == (5e-6, 2)
    assert config.lora_args is not None
    assert (config.lora_args.r, config.lora_args.lora_alpha, config.sequence_packing) == (32, 32, False)
    return "learning rate 5e-6, batch 2, rank 32 with alpha 32, no packing"


def check_factory(model: str, work: Path) -> str:
    """The factory knows SFT and DPO, and names what it knows."""
    from opensloth.trainer_factory import create_trainer_by_type, trainer_factory_map

    assert {"sft", "dpo"} <= trainer_factory_map.keys()
    unknown = OpenSlothConfig(training_type="dpoo", fast_model_args=FastModelArgs(model_name=model))
    try:
        create_trainer_by_type(None, None, PAIRS, unknown, TrainingArguments())
    except InvalidInput as refused:
        return refused.message
    raise AssertionError("an unknown training type was accepted")


def check_preparation(model: str, work: Path) -> str:
    """`prepare_dpo_dataset.py` writes what a script reads."""
    from opensloth.scripts.opensloth_trainer import load_rows
    from prepare_dataset.prepare_dpo_dataset import EXAMPLE, prepare

    count = prepare(EXAMPLE, work / "dpo_cache")
    rows = load_rows(str(work / "dpo_cache"))
    assert len(rows) == count
    assert {"prompt", "chosen", "rejected"} <= set(rows.column_names)
    return f"{count} pairs written and read back"


def check_bad_data(model: str, work: Path) -> str:
    """A row without its columns is named."""
    from opensloth.init_modules import init_model_and_tokenizer
    from opensloth.trainer_factory import create_trainer_by_type

    config, args = config_for(model), TrainingArguments(output_dir=str(work / "bad"))
    loaded, tokenizer = init_model_and_tokenizer(config, args)
    try:
        create_trainer_by_type(loaded, tokenizer, [{"question": "x"}], config, args)
    except InvalidDataset as refused:
        return refused.message
    raise AssertionError("a row without prompt, chosen and rejected was accepted")


def check_training(model: str, work: Path) -> str:
    """The loss starts at ln 2, falls, and the margin of the chosen answers grows."""
    from opensloth.init_modules import init_model_and_tokenizer
    from opensloth.trainer_factory import create_trainer_by_type

    config = config_for(model)
    args = TrainingArguments(
        output_dir=str(work / "trained"), learning_rate=1e-3, max_steps=8, gradient_accumulation_steps=1, warmup_steps=0
    )
    loaded, tokenizer = init_model_and_tokenizer(config, args)
    trainer = create_trainer_by_type(loaded, tokenizer, PAIRS, config, args)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    first, last = steps[0], steps[-1]
    assert abs(first["loss"] - math.log(2)) < 1e-3, first
    assert last["loss"] < first["loss"]
    assert last["rewards/margins"] > 0
    trainer.save_model(str(work / "trained"))
    return f"loss {first['loss']:.4f} to {last['loss']:.4f}, margin {last['rewards/margins']:.3f} in {len(steps)} steps"


def check_continuation(model: str, work: Path) -> str:
    """Training goes on from the adapter just made: it is the reference now, so the loss is at ln 2 again."""
    from opensloth.init_modules import init_model_and_tokenizer
    from opensloth.trainer_factory import create_trainer_by_type

    config = config_for(model, pretrained_lora=str(work / "trained"))
    args = TrainingArguments(output_dir=str(work / "again"), max_steps=1, gradient_accumulation_steps=1)
    loaded, tokenizer = init_model_and_tokenizer(config, args)
    trainer = create_trainer_by_type(loaded, tokenizer, PAIRS, config, args)
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert abs(loss - math.log(2)) < 1e-3
    return f"loss {loss:.4f} is ln 2 against the adapter that it started from"


CHECKS: tuple[Callable[[str, Path], str], ...] = (
    check_configuration,
    check_factory,
    check_preparation,
    check_bad_data,
    check_training,
    check_continuation,
)


def main() -> None:
    """Run all checks; exit status 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a registered model, a local directory or a hub id; a tiny one by default")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = local_model_or_tiny(options.model, work)
        for check in CHECKS:
            try:
                print(f"ok      {check.__doc__}  [{check(model, work)}]", flush=True)
            except AssertionError as problem:
                failed += 1
                print(f"FAILED  {check.__doc__}  [{problem}]", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed")
    sys.exit(1 if failed else 0)


def local_model_or_tiny(name: str | None, work: Path) -> str:
    """The model to train in the checks."""
    if name is not None:
        from opensloth.models.local import local_model

        return local_model(name)
    from tests.support.tiny_model import make_tiny_model

    return str(make_tiny_model(work / "tiny"))


if __name__ == "__main__":
    main()
