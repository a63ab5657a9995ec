"""The classes that existing users' scripts build."""

import subprocess
import sys
import warnings

import pytest
from pydantic import BaseModel, ValidationError

from opensloth.opensloth_config import DPOArgs, FastModelArgs, LoraArgs, OpenSlothConfig, TrainingArguments

MODEL = FastModelArgs(model_name="tiny")


def test_the_script_of_the_documentation_builds():
    config = OpenSlothConfig(
        data_cache_path="data/dpo_cache",
        devices=[0, 1],
        log_level="debug",
        training_type="dpo",
        fast_model_args=MODEL,
        dpo_args=DPOArgs(beta=0.1, max_length=1024, max_prompt_length=512),
    )
    assert config.devices == [0, 1]
    assert "engine" not in config.model_fields_set


def test_sft_is_the_default():
    assert OpenSlothConfig(data_cache_path="data/x", fast_model_args=MODEL).training_type == "sft"


def test_warmup_ratio_becomes_a_share_of_steps_with_a_warning():
    with pytest.warns(FutureWarning, match="warmup_steps=0.1"):
        args = TrainingArguments(warmup_ratio=0.1)
    assert args.warmup_steps == 0.1
    assert "warmup_steps" in args.model_fields_set
    assert "warmup_ratio" not in args.to_dict()


def test_warmup_steps_wins_over_warmup_ratio():
    with pytest.warns(FutureWarning, match="left out"):
        assert TrainingArguments(warmup_ratio=0.1, warmup_steps=20).warmup_steps == 20


@pytest.mark.parametrize("ratio", [1.0, -0.1, "x", True])
def test_a_warmup_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(ValidationError, match="share of all steps"):
        TrainingArguments(warmup_ratio=ratio)


def test_unknown_training_arguments_are_kept_for_transformers():
    assert TrainingArguments(torch_empty_cache_steps=4, nonsense=1).to_dict()["nonsense"] == 1


def test_the_fields_of_earlier_releases_are_accepted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = TrainingArguments(optim="adamw_8bit", report_to="tensorboard", save_total_limit=1, output_dir="out")
        LoraArgs(finetune_vision_layers=False, finetune_mlp_modules=True)
        FastModelArgs(model_name="tiny", fast_inference=False, gpu_memory_utilization=0.7)
    assert args.to_dict()["report_to"] == "tensorboard"


def test_an_unknown_config_field_is_said_and_not_silently_dropped():
    with pytest.warns(UserWarning, match="did you mean pretrained_lora"):
        OpenSlothConfig(fast_model_args=MODEL, pretraind_lora="x")


def test_what_is_not_set_is_left_to_transformers():
    assert not {"eval_steps", "data_seed", "bf16"} & TrainingArguments().to_dict().keys()


@pytest.mark.parametrize("model", [OpenSlothConfig, FastModelArgs, LoraArgs, DPOArgs, TrainingArguments])
def test_every_field_has_a_sentence(model: type[BaseModel]):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_config_needs_pydantic_alone():
    code = (
        "import sys; import opensloth.opensloth_config;"
        "heavy = {'torch', 'transformers', 'trl', 'sqlalchemy', 'fastapi', 'pydantic_settings', 'numpy'};"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
