"""The Python API: what a user's own script does with the factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from opensloth.errors import InvalidInput
from opensloth.init_modules import init_model_and_tokenizer
from opensloth.opensloth_config import DPOArgs, FastModelArgs, OpenSlothConfig, TrainingArguments
from opensloth.trainer_factory import create_trainer_by_type, trainer_factory_map
from tests.support.training import dpo_rows, sft_rows


def _config(model: Path, **fields: Any) -> OpenSlothConfig:
    fields.setdefault("sequence_packing", False)
    return OpenSlothConfig(fast_model_args=FastModelArgs(model_name=str(model)), **fields)


def _arguments(folder: Path, **fields: Any) -> TrainingArguments:
    return TrainingArguments(output_dir=str(folder), max_steps=2, warmup_steps=0, disable_tqdm=True, **fields)


def _losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_sft_is_the_default_and_takes_a_dataset(tiny_model: Path, tmp_path: Path) -> None:
    config = _config(tiny_model)
    model, tokenizer = init_model_and_tokenizer(config)
    arguments = _arguments(tmp_path, learning_rate=1e-2)
    trainer = create_trainer_by_type(model, tokenizer, Dataset.from_list(sft_rows(24)), config, arguments)
    trainer.train()
    first, second = _losses(trainer)
    assert second < first
    assert model.peft_config["default"].r == 16
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "adapter_model.safetensors").exists()


def test_dpo_takes_splits_and_evaluates(tiny_model: Path, tmp_path: Path) -> None:
    config = _config(
        tiny_model, training_type="dpo", dpo_args=DPOArgs(beta=0.1, max_length=1024, max_prompt_length=512)
    )
    model, tokenizer = init_model_and_tokenizer(config)
    splits = DatasetDict(train=Dataset.from_list(dpo_rows(16)), test=Dataset.from_list(dpo_rows(4)))
    arguments = _arguments(tmp_path, eval_strategy="steps", eval_steps=2)
    trainer = create_trainer_by_type(model, tokenizer, splits, config, arguments)
    trainer.train()
    assert _losses(trainer)[0] == pytest.approx(0.6931, abs=1e-4)
    assert any("eval_rewards/margins" in entry for entry in trainer.state.log_history)
    assert [counts.split for counts in trainer.data_counts] == ["train", "eval"]
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize(("training_type", "rows"), [("sft", sft_rows(5)), ("dpo", dpo_rows(5))])
def test_the_loss_does_not_depend_on_how_a_step_falls_into_batches(
    training_type: str, rows: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    curves = []
    for size, accumulation in ((5, 1), (2, 3)):  # 5 rows at once, or 2, 2 and 1
        config = _config(tiny_model, training_type=training_type)
        model, tokenizer = init_model_and_tokenizer(config)
        arguments = _arguments(
            tmp_path,
            learning_rate=1e-2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
        trainer = create_trainer_by_type(model, tokenizer, rows, config, arguments)
        trainer.train()
        curves.append([(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e])
    assert len(curves[0]) == 2
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_model_without_an_adapter_gets_the_configured_one(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    model, tokenizer = (part.from_pretrained(tiny_model) for part in (AutoModelForCausalLM, AutoTokenizer))
    config = _config(tiny_model, lora_args={"r": 4})
    theirs = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, learning_rate=1e-3, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = create_trainer_by_type(model, tokenizer, sft_rows(16), config, theirs)
    trainer.train()
    assert trainer.model.peft_config["default"].r == 4
    assert trainer.args.learning_rate == 1e-3


def test_an_unknown_argument_gets_the_error_of_transformers(tiny_model: Path, tmp_path: Path) -> None:
    config = _config(tiny_model)
    model, tokenizer = init_model_and_tokenizer(config)
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rat'"):
        create_trainer_by_type(model, tokenizer, sft_rows(4), config, _arguments(tmp_path, learning_rat=1e-3))


def test_the_map_names_the_training_types(tiny_model: Path) -> None:
    assert {"sft", "dpo", "kto", "orpo", "grpo"} <= trainer_factory_map.keys()
    known = r"no trainer for training type 'dpp'; known are .*dpo, grpo, kto, orpo, sft"
    with pytest.raises(InvalidInput, match=known):
        create_trainer_by_type(None, None, [], _config(tiny_model, training_type="dpp"))
