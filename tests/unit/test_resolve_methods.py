"""What `resolve` does for KTO, ORPO, GRPO and methods from outside."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from opensloth.errors import InvalidInput
from opensloth.methods import METHODS, Method, register_method
from opensloth.opensloth_config import (
    FastModelArgs,
    GRPOArgs,
    KTOArgs,
    OpenSlothConfig,
    ORPOArgs,
    RewardSpec,
    TrainingArguments,
)
from opensloth.resolve import DeviceFacts, resolve

CPU = DeviceFacts("cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False)


def config(training_type, max_seq_length=4096, **fields):
    model = FastModelArgs(model_name="tiny", max_seq_length=max_seq_length)
    return OpenSlothConfig(training_type=training_type, fast_model_args=model, **fields)


def grpo(max_seq_length=4096, **fields):
    return config("grpo", max_seq_length, grpo_args=GRPOArgs(reward_functions=["length"], **fields))


def path_of(error):
    return error.value.fields[0].path


@pytest.mark.parametrize(
    ("name", "args", "rate", "batch"),
    [("kto", KTOArgs, 5e-6, 4), ("orpo", ORPOArgs, 8e-6, 2)],
)
def test_a_method_gets_its_own_defaults(name, args, rate, batch):
    resolved = resolve(config(name), TrainingArguments(), CPU)
    assert getattr(resolved.opensloth_config, f"{name}_args") == args()
    assert (resolved.training_args.learning_rate, resolved.training_args.per_device_train_batch_size) == (rate, batch)
    assert (resolved.opensloth_config.lora_args.r, resolved.opensloth_config.sequence_packing) == (32, False)


def test_arguments_of_another_method_are_dropped_and_it_is_said():
    resolved = resolve(config("orpo", kto_args=KTOArgs()), TrainingArguments(), CPU)
    assert resolved.opensloth_config.kto_args is None
    assert "orpo" in resolved.why["opensloth_config.kto_args"]


def test_kto_says_that_weights_are_balanced_only_where_they_are():
    why = resolve(config("kto", kto_args=KTOArgs(desirable_weight=2.0)), TrainingArguments(), CPU).why
    assert "opensloth_config.kto_args.undesirable_weight" in why
    assert "opensloth_config.kto_args.desirable_weight" not in why


def test_a_reward_may_be_its_name_alone():
    args = GRPOArgs(reward_functions=["length", {"name": "regex", "weight": 2, "params": {"pattern": "a"}}])
    assert args.reward_functions[0] == RewardSpec(name="length")
    assert GRPOArgs.model_validate(args.model_dump()) == args


def test_grpo_without_a_reward_is_refused():
    with pytest.raises(InvalidInput) as error:
        resolve(config("grpo"), TrainingArguments(), CPU)
    assert path_of(error) == "opensloth_config.grpo_args.reward_functions"


def test_a_batch_of_grpo_holds_whole_groups():
    assert resolve(grpo(num_generations=6), TrainingArguments(), CPU).training_args.per_device_train_batch_size == 6
    with pytest.raises(InvalidInput) as error:
        resolve(grpo(num_generations=6), TrainingArguments(per_device_train_batch_size=4), CPU)
    assert path_of(error) == "training_args.per_device_train_batch_size"
    small = TrainingArguments(per_device_train_batch_size=3, gradient_accumulation_steps=2)
    assert resolve(grpo(num_generations=6), small, CPU).training_args.per_device_train_batch_size == 3


def test_an_evaluation_of_grpo_samples_whole_groups():
    args = TrainingArguments(per_device_train_batch_size=3, gradient_accumulation_steps=2)
    user = grpo(num_generations=6).model_copy(update={"eval_split": 0.1})
    resolved = resolve(user, args, CPU)
    assert (resolved.training_args.per_device_train_batch_size, resolved.training_args.per_device_eval_batch_size) == (
        3,
        6,
    )


def test_prompt_and_answer_of_grpo_share_the_sequence():
    def lengths(*args, **fields):
        found = resolve(grpo(*args, **fields), TrainingArguments(), CPU).opensloth_config.grpo_args
        return found.max_prompt_length, found.max_completion_length

    assert lengths(4096) == (512, 256)
    assert lengths(512) == (256, 256)
    assert lengths(256) == (128, 128)
    assert lengths(512, max_completion_length=500) == (12, 500)
    assert lengths(512, max_prompt_length=500) == (500, 12)
    with pytest.raises(InvalidInput) as error:
        lengths(512, max_prompt_length=500, max_completion_length=100)
    assert path_of(error) == "opensloth_config.grpo_args.max_completion_length"


@pytest.mark.parametrize("name", ["kto", "orpo", "grpo"])
def test_resolving_again_changes_nothing(name):
    user = grpo(300, num_generations=6) if name == "grpo" else config(name, 300)
    once = resolve(user, TrainingArguments(), CPU)
    again = resolve(once.opensloth_config, once.training_args, CPU)
    assert again.opensloth_config == once.opensloth_config
    assert again.training_args == once.training_args


def test_a_split_is_evaluated_each_epoch():
    assert resolve(config("sft", eval_split=0.1), TrainingArguments(), CPU).training_args.eval_strategy == "epoch"
    assert resolve(config("sft"), TrainingArguments(), CPU).training_args.eval_strategy == "no"


def test_the_best_weights_are_judged_by_the_methods_own_metric():
    args = TrainingArguments(load_best_model_at_end=True)
    sft = resolve(config("sft", eval_split=0.1), args, CPU).training_args
    assert (sft.metric_for_best_model, sft.greater_is_better) == ("eval_loss", False)
    user = grpo().model_copy(update={"eval_split": 0.1, "early_stopping_patience": 2})
    found = resolve(user, TrainingArguments(), CPU).training_args
    assert (found.metric_for_best_model, found.greater_is_better) == ("eval_reward", True)
    with pytest.raises(InvalidInput) as error:
        resolve(config("sft"), args, CPU)
    assert path_of(error) == "training_args.load_best_model_at_end"


class OwnArgs(BaseModel):
    least: float = 0.5


@pytest.fixture
def own_method():
    register_method(Method("own", "its own", args_field="method_args", args_class=OwnArgs))
    yield
    del METHODS["own"]


def test_a_method_from_outside_gets_its_arguments_filled_and_checked(own_method):
    assert resolve(config("own"), TrainingArguments(), CPU).opensloth_config.method_args == {"least": 0.5}
    given = resolve(config("own", method_args={"least": 1}), TrainingArguments(), CPU)
    assert given.opensloth_config.method_args == {"least": 1.0}
    with pytest.raises(InvalidInput) as error:
        resolve(config("own", method_args={"least": "high"}), TrainingArguments(), CPU)
    assert path_of(error) == "opensloth_config.method_args.least"
