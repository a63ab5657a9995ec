"""What `resolve` fills, fits and refuses."""

import itertools
import json

import pytest

from opensloth.errors import InvalidInput
from opensloth.methods import METHODS, Method, register_method
from opensloth.opensloth_config import DPOArgs, FastModelArgs, LoraArgs, OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, resolve, without_checkpointing

CPU = DeviceFacts("cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False)
UNSLOTH_GPU = DeviceFacts("cuda", bf16=True, has_unsloth=True, has_bitsandbytes=True)
PLAIN_GPU = DeviceFacts("cuda", bf16=True, has_unsloth=False, has_bitsandbytes=False)
OLD_GPU = DeviceFacts("cuda", bf16=False, has_unsloth=False, has_bitsandbytes=True)
ADAPTER = {
    "r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "bias": "none",
    "target_modules": ["v_proj", "q_proj"],
    "use_rslora": True,
}


def config(**fields):
    model = {"model_name": "tiny", **fields.pop("fast_model_args", {})}
    return OpenSlothConfig(fast_model_args=FastModelArgs(**model), **fields)


def fields_of(error):
    return [field.path for field in error.value.fields]


def test_sft_gets_its_own_defaults():
    resolved = resolve(config(), TrainingArguments(), CPU)
    assert (resolved.opensloth_config.lora_args.r, resolved.opensloth_config.sequence_packing) == (16, True)
    assert resolved.training_args.learning_rate == 2e-4
    assert resolved.training_args.per_device_train_batch_size == 8


def test_dpo_gets_its_own_defaults_and_says_so():
    resolved = resolve(config(training_type="dpo"), TrainingArguments(), CPU)
    assert (resolved.opensloth_config.lora_args.r, resolved.opensloth_config.sequence_packing) == (32, False)
    assert resolved.opensloth_config.dpo_args == DPOArgs()
    assert resolved.training_args.learning_rate == 5e-6
    assert resolved.training_args.per_device_train_batch_size == 2
    assert resolved.why["training_args.learning_rate"] == "default of dpo"


def test_what_the_user_set_stays_even_if_it_is_the_class_default():
    args = TrainingArguments(learning_rate=2e-4, per_device_train_batch_size=8)
    resolved = resolve(config(training_type="dpo", lora_args=LoraArgs(r=16)), args, CPU)
    assert resolved.training_args.learning_rate == 2e-4
    assert resolved.training_args.per_device_train_batch_size == 8
    assert resolved.opensloth_config.lora_args.r == 16
    assert "training_args.learning_rate" not in resolved.why


def test_alpha_follows_r_unless_it_is_set():
    assert (
        resolve(config(lora_args=LoraArgs(r=64)), TrainingArguments(), CPU).opensloth_config.lora_args.lora_alpha == 64
    )
    resolved = resolve(config(lora_args=LoraArgs(r=64, lora_alpha=16)), TrainingArguments(), CPU)
    assert resolved.opensloth_config.lora_args.lora_alpha == 16
    assert resolve(config(training_type="dpo"), TrainingArguments(), CPU).opensloth_config.lora_args.lora_alpha == 32


def test_a_cpu_gets_what_a_cpu_can_do():
    user = config(fast_model_args={"load_in_4bit": True, "use_gradient_checkpointing": "unsloth"})
    resolved = resolve(user, TrainingArguments(optim="adamw_8bit", fp16=True), CPU)
    args = resolved.training_args
    assert (resolved.engine, args.optim, args.bf16, args.fp16, args.use_cpu) == (
        "transformers",
        "adamw_torch",
        False,
        False,
        True,
    )
    model = resolved.opensloth_config.fast_model_args
    assert model.load_in_4bit is False
    assert model.use_gradient_checkpointing is True
    for path in ("opensloth_config.fast_model_args.load_in_4bit", "training_args.optim", "training_args.fp16"):
        assert resolved.why[path]


def test_a_gpu_gets_what_was_measured_to_be_fastest():
    resolved = resolve(config(), TrainingArguments(), UNSLOTH_GPU)
    model = resolved.opensloth_config.fast_model_args
    assert (resolved.engine, model.load_in_4bit, model.use_gradient_checkpointing) == ("transformers", True, True)
    assert (resolved.training_args.optim, resolved.training_args.bf16) == ("adamw_torch_fused", True)


def test_unsloth_is_taken_where_it_is_asked_for_with_its_own_checkpointing():
    resolved = resolve(config(engine="unsloth"), TrainingArguments(optim="adamw_8bit"), UNSLOTH_GPU)
    model = resolved.opensloth_config.fast_model_args
    assert (resolved.engine, model.use_gradient_checkpointing) == ("unsloth", "unsloth")
    assert resolved.training_args.optim == "adamw_8bit"
    assert without_checkpointing(resolved, "there is memory") is None


def test_activations_are_kept_only_where_nobody_decided_otherwise():
    free = resolve(config(), TrainingArguments(), UNSLOTH_GPU)
    kept = without_checkpointing(free, "there is memory")
    assert kept is not None
    assert kept.opensloth_config.fast_model_args.use_gradient_checkpointing is False
    assert kept.training_args.gradient_checkpointing is False
    assert kept.why["training_args.gradient_checkpointing"] == "there is memory"
    assert free.training_args.gradient_checkpointing is True
    again = resolve(kept.opensloth_config, kept.training_args, UNSLOTH_GPU)
    assert again.training_args.gradient_checkpointing is False
    asked = resolve(config(fast_model_args={"use_gradient_checkpointing": True}), TrainingArguments(), UNSLOTH_GPU)
    assert without_checkpointing(asked, "there is memory") is None


def test_a_gpu_without_extras_trains_in_16_bits_with_transformers():
    resolved = resolve(config(), TrainingArguments(), PLAIN_GPU)
    model = resolved.opensloth_config.fast_model_args
    assert (resolved.engine, model.load_in_4bit, model.use_gradient_checkpointing) == ("transformers", False, True)
    assert resolved.training_args.optim == "adamw_torch_fused"


def test_full_fine_tuning_keeps_the_optimizer_with_small_states():
    resolved = resolve(config(fast_model_args={"full_finetuning": True}), TrainingArguments(), UNSLOTH_GPU)
    assert resolved.training_args.optim == "adamw_8bit"


@pytest.mark.parametrize("asked", [None, True])
def test_a_gpu_without_bfloat16_trains_in_float16(asked):
    args = resolve(config(), TrainingArguments(bf16=asked), OLD_GPU).training_args
    assert (args.bf16, args.fp16) == (False, True)


def test_use_cpu_holds_on_a_gpu_box():
    resolved = resolve(config(), TrainingArguments(use_cpu=True), UNSLOTH_GPU)
    assert (resolved.device, resolved.engine, resolved.training_args.bf16) == ("cpu", "transformers", False)


def test_an_engine_that_is_not_there_is_refused():
    with pytest.raises(InvalidInput) as error:
        resolve(config(engine="unsloth"), TrainingArguments(), CPU)
    assert fields_of(error) == ["opensloth_config.engine"]


def test_an_optimizer_without_an_equivalent_is_refused():
    with pytest.raises(InvalidInput) as error:
        resolve(config(), TrainingArguments(optim="lion_8bit"), CPU)
    assert fields_of(error) == ["training_args.optim"]


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean 'dpo'"):
        resolve(config(training_type="dpoo"), TrainingArguments(), CPU)


def test_a_method_from_outside_has_its_own_defaults(monkeypatch):
    monkeypatch.setattr("opensloth.methods.METHODS", dict(METHODS))
    register_method(Method("mine", "mine", defaults={"training_args.learning_rate": 1e-3}))
    assert "mine" not in METHODS
    assert resolve(config(training_type="mine"), TrainingArguments(), CPU).training_args.learning_rate == 1e-3


def test_full_finetuning_has_no_adapter_and_no_quantised_weights():
    user = config(fast_model_args={"full_finetuning": True}, lora_args=LoraArgs(r=4))
    resolved = resolve(user, TrainingArguments(), UNSLOTH_GPU)
    assert resolved.opensloth_config.lora_args is None
    assert resolved.opensloth_config.fast_model_args.load_in_4bit is False
    assert "opensloth_config.lora_args" in resolved.why


def test_an_adapter_holds_its_shape_against_the_defaults():
    lora = resolve(
        config(training_type="dpo"), TrainingArguments(), CPU, adapter_lora=ADAPTER
    ).opensloth_config.lora_args
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.use_rslora) == (8, 32, 0.1, True)
    assert lora.target_modules == ["q_proj", "v_proj"]


def test_other_explicit_lora_args_are_refused_with_an_adapter():
    user = config(lora_args=LoraArgs(r=16, lora_dropout=0.5, target_modules=["q_proj", "v_proj"]))
    with pytest.raises(InvalidInput, match="adapter") as error:
        resolve(user, TrainingArguments(), CPU, adapter_lora=ADAPTER)
    assert fields_of(error) == ["opensloth_config.lora_args.r", "opensloth_config.lora_args.lora_dropout"]


def test_the_same_lora_args_as_the_adapters_are_fine():
    user = config(lora_args=LoraArgs(r=8, target_modules=["q_proj", "v_proj"], random_state=3407))
    assert resolve(user, TrainingArguments(), CPU, adapter_lora=ADAPTER).opensloth_config.lora_args.lora_alpha == 32


def test_full_finetuning_cannot_go_on_from_an_adapter():
    with pytest.raises(InvalidInput) as error:
        resolve(config(fast_model_args={"full_finetuning": True}), TrainingArguments(), CPU, adapter_lora=ADAPTER)
    assert fields_of(error) == ["opensloth_config.fast_model_args.full_finetuning"]


def test_dpo_lengths_fit_into_the_models():
    user = config(training_type="dpo", fast_model_args={"max_seq_length": 256})
    dpo = resolve(user, TrainingArguments(), CPU).opensloth_config.dpo_args
    assert (dpo.max_length, dpo.max_prompt_length) == (256, 128)


def test_a_prompt_that_leaves_no_room_is_refused():
    user = config(training_type="dpo", dpo_args=DPOArgs(max_length=512, max_prompt_length=512))
    with pytest.raises(InvalidInput) as error:
        resolve(user, TrainingArguments(), CPU)
    assert fields_of(error) == ["opensloth_config.dpo_args.max_prompt_length"]


@pytest.mark.parametrize(
    ("given", "has_eval", "strategy"),
    [({}, False, "no"), ({}, True, "epoch"), ({"eval_steps": 5}, True, "steps"), ({"eval_strategy": "no"}, True, "no")],
)
def test_evaluation_follows_from_the_eval_dataset(given, has_eval, strategy):
    resolved = resolve(config(), TrainingArguments(**given), CPU, has_eval_dataset=has_eval)
    assert resolved.training_args.eval_strategy == strategy


def test_the_input_is_not_changed():
    user, args = config(lora_args=LoraArgs(r=4)), TrainingArguments()
    before = (user.model_copy(deep=True), args.model_copy(deep=True))
    resolve(user, args, CPU)
    assert (user, args) == before
    assert user.lora_args.model_fields_set == {"r"}


@pytest.mark.parametrize("device", [CPU, UNSLOTH_GPU, PLAIN_GPU, OLD_GPU])
def test_resolving_what_is_resolved_changes_nothing_and_it_survives_json(device):
    models = ({}, {"load_in_8bit": True}, {"full_finetuning": True}, {"use_gradient_checkpointing": False})
    arguments = ({}, {"gradient_checkpointing": True}, {"bf16": True, "save_steps": 5}, {"optim": "paged_adamw_8bit"})
    for training_type, model, given in itertools.product(("sft", "dpo"), models, arguments):
        user = config(training_type=training_type, fast_model_args=model)
        once = resolve(user, TrainingArguments(**given), device)
        read = (
            OpenSlothConfig.model_validate_json(once.opensloth_config.model_dump_json()),
            TrainingArguments.model_validate_json(once.training_args.model_dump_json()),
        )
        for again in (resolve(once.opensloth_config, once.training_args, device), resolve(*read, device)):
            assert (again.opensloth_config, again.training_args, again.engine) == (
                once.opensloth_config,
                once.training_args,
                once.engine,
            )
        json.dumps(once.to_json(), allow_nan=False)
