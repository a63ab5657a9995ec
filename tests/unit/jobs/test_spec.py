"""What `POST /v1/jobs` accepts and what it answers otherwise."""

import copy
import dataclasses
import inspect
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensloth.errors import InvalidInput
from opensloth.jobs.spec import SCHEMA_VERSION, load_job_spec, parse_duration, parse_job_spec, parse_memory
from opensloth.jobs.spec_fields import ALLOWED, DPO_LOSSES, OPTIMIZERS, REFUSED, SCHEDULES, SHORT_NAMES
from opensloth.opensloth_config import DPOArgs, TrainingArguments

ISSUE_EXAMPLE = {
    "name": "support-tone",
    "dataset": "file-abc123",
    "eval_dataset": None,
    "opensloth_config": {
        "training_type": "dpo",
        "fast_model_args": {"model_name": "smollm2-135m", "max_seq_length": 1024},
        "lora_args": {"r": 32, "lora_alpha": 32},
        "dpo_args": {"beta": 0.1},
    },
    "training_args": {"learning_rate": 5e-6, "num_train_epochs": 1, "per_device_train_batch_size": 2},
    "resources": {"gpus": 1},
    "time_limit": "2h",
    "priority": "normal",
    "max_retries": 2,
    "metadata": {},
}
MINIMAL = {"dataset": "file-1", "opensloth_config": {"fast_model_args": {"model_name": "smollm2-135m"}}}


def body_with(path, value, base=MINIMAL):
    body = copy.deepcopy(base)
    owner = body
    *parents, name = path.split(".")
    for parent in parents:
        owner = owner.setdefault(parent, {})
    owner[name] = value
    return body


def dpo_with(path, value):
    return body_with(path, value, body_with("opensloth_config.training_type", "dpo"))


def errors_of(body):
    with pytest.raises(InvalidInput) as refused:
        parse_job_spec(body)
    assert refused.value.fields
    return {error.path: error for error in refused.value.fields}


def fields_refused_in(body):
    try:
        parse_job_spec(body)
    except InvalidInput as refused:
        return refused.fields
    return ()


def test_the_example_of_the_documentation_is_accepted():
    spec = parse_job_spec(ISSUE_EXAMPLE)
    assert spec.time_limit == 7200
    assert spec.opensloth_config.lora_args.model_fields_set == {"r", "lora_alpha"}
    assert spec.training_args.model_fields_set == {"learning_rate", "num_train_epochs", "per_device_train_batch_size"}


def test_a_job_needs_no_more_than_a_dataset_and_a_model():
    spec = parse_job_spec(MINIMAL)
    assert (spec.name, spec.priority, spec.max_retries, spec.resources.gpus) == ("sft-smollm2-135m", "normal", 2, 1)
    assert (spec.time_limit, spec.depends_on, spec.metadata) == (None, [], {})


def test_what_is_missing_is_named():
    assert set(errors_of({})) == {"dataset", "opensloth_config"}
    assert set(errors_of({"dataset": "file-1", "opensloth_config": {}})) == {"opensloth_config.fast_model_args"}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("training_args.learning_rat", "did you mean learning_rate"),
        ("opensloth_config.lora_args.alpha", "did you mean lora_alpha"),
        ("opensloth_config.dpo_arg", "did you mean dpo_args"),
        ("learning_rate", "belongs at training_args.learning_rate"),
        ("training_args.beta", "belongs at opensloth_config.dpo_args.beta"),
        ("training_args.max_seq_length", "belongs at opensloth_config.fast_model_args.max_seq_length"),
        ("resources.gpu", "did you mean gpus"),
        ("training_args.lr", "did you mean training_args.learning_rate"),
        ("zzzzqq", "known here are"),
    ],
)
def test_an_unknown_field_names_the_nearest_real_one(path, hint):
    assert hint in errors_of(body_with(path, 1))[path].message


@pytest.mark.parametrize(
    ("path", "value", "alternative"),
    [
        ("opensloth_config.data_cache_path", "data/x", "dataset"),
        ("opensloth_config.devices", [0], "resources.gpus"),
        ("opensloth_config.pretrained_lora", "outputs/lora", "earlier job's result"),
        ("opensloth_config.pretrained_lora", "../lora", "earlier job's result"),
        ("opensloth_config.fast_model_args.model_name", "/etc/passwd", "registered model"),
        ("opensloth_config.fast_model_args.model_name", "../../x", "registered model"),
        ("opensloth_config.fast_model_args.model_name", "a/b/c", "registered model"),
        ("opensloth_config.fast_model_args.trust_remote_code", True, "code"),
        ("training_args.output_dir", "out", "artifacts"),
        ("training_args.resume_from_checkpoint", "x", "resumes by itself"),
        ("training_args.report_to", "wandb", "metrics"),
        ("training_args.logging_dir", "x", "metrics"),
        ("training_args.push_to_hub", True, "hub"),
        ("training_args.deepspeed", "ds.json", "resources.gpus"),
        ("training_args.fsdp", "full_shard", "resources.gpus"),
        ("training_args.warmup_ratio", 0.1, "warmup_steps"),
        ("retry_of", "ftjob-1", "service"),
    ],
)
def test_what_touches_the_server_is_refused_with_the_alternative(path, value, alternative):
    assert alternative in errors_of(body_with(path, value))[path].message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training_args.learning_rate", -1e-4),
        ("training_args.learning_rate", 0),
        ("training_args.learning_rate", 1e9),
        ("training_args.learning_rate", True),
        ("training_args.learning_rate", "2e-4"),
        ("training_args.learning_rate", float("nan")),
        ("training_args.learning_rate", float("inf")),
        ("training_args.learning_rate", 10**400),
        ("training_args.learning_rate", None),
        ("training_args.per_device_train_batch_size", 0),
        ("training_args.per_device_train_batch_size", 2.5),
        ("training_args.per_device_train_batch_size", True),
        ("training_args.per_device_train_batch_size", 10**30),
        ("training_args.gradient_accumulation_steps", 0),
        ("training_args.num_train_epochs", 0),
        ("training_args.num_train_epochs", -1),
        ("training_args.max_steps", 0),
        ("training_args.max_steps", -2),
        ("training_args.warmup_steps", 2.5),
        ("training_args.warmup_steps", -1),
        ("training_args.seed", -1),
        ("training_args.seed", 2**32),
        ("training_args.bf16", 1),
        ("training_args.bf16", "true"),
        ("training_args.optim", "adamw"),
        ("training_args.optim", "galore_adamw"),
        ("training_args.lr_scheduler_type", "sinus"),
        ("training_args.lr_scheduler_kwargs", [1]),
        ("training_args.adam_beta2", 1),
        ("opensloth_config.lora_args.r", 0),
        ("opensloth_config.lora_args.r", -8),
        ("opensloth_config.lora_args.lora_dropout", 1.0),
        ("opensloth_config.lora_args.bias", "some"),
        ("opensloth_config.lora_args.target_modules", []),
        ("opensloth_config.lora_args.target_modules", ["(a+)+$"]),
        ("opensloth_config.lora_args.target_modules", ".*"),
        ("opensloth_config.lora_args.random_state", 2**32),
        ("opensloth_config.fast_model_args.max_seq_length", 1),
        ("opensloth_config.fast_model_args.max_seq_length", 10**9),
        ("opensloth_config.fast_model_args.use_gradient_checkpointing", "yes"),
        ("opensloth_config.training_type", "dppo"),
        ("opensloth_config.training_type", 3),
        ("opensloth_config.engine", "trl"),
        ("dataset", "data/train.jsonl"),
        ("dataset", 7),
        ("resources.gpus", -1),
        ("resources.memory", "lots"),
        ("time_limit", "soon"),
        ("time_limit", 0),
        ("time_limit", -5),
        ("priority", "asap"),
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("metadata", {"k": 1}),
        ("metadata", {f"k{n}": "v" for n in range(17)}),
        ("depends_on", ["job-1"]),
        ("depends_on", ["ftjob-1", "ftjob-1"]),
        ("name", "x" * 129),
        ("name", "a\nb"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_at_its_path(path, value):
    paths = errors_of(body_with(path, value))
    assert any(found == path or found.startswith((f"{path}[", f"{path}.")) for found in paths), paths


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("beta", -0.1),
        ("beta", 0),
        ("beta", True),
        ("label_smoothing", 0.5),
        ("label_smoothing", -0.1),
        ("loss_type", "sigmoidal"),
        ("loss_type", ["sigmoid", "nope"]),
        ("loss_type", []),
        ("loss_weights", [1.0, 2.0]),
        ("max_length", 0),
        ("max_length", 5000),
        ("max_prompt_length", 1024),
        ("max_prompt_length", "512"),
    ],
)
def test_a_dpo_argument_out_of_range_is_refused(path, value):
    path = f"opensloth_config.dpo_args.{path}"
    assert path in errors_of(dpo_with(path, value))


def test_a_metadata_key_or_value_that_is_too_long_is_refused():
    assert any("metadata" in path for path in errors_of(body_with("metadata", {"k" * 65: "v"})))
    assert "metadata.k" in errors_of(body_with("metadata", {"k": "v" * 513}))
    assert parse_job_spec(body_with("metadata", {"k" * 64: "v" * 512}))


def test_a_dpo_argument_on_an_sft_job_is_refused():
    assert (
        'training_type "dpo"'
        in errors_of(body_with("opensloth_config.dpo_args", {"beta": 0.1}))["opensloth_config.dpo_args"].message
    )


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"training_args.eval_steps": 5}, "training_args.eval_steps"),
        ({"training_args.eval_strategy": "epoch"}, "training_args.eval_strategy"),
        ({"training_args.per_device_eval_batch_size": 4}, "training_args.per_device_eval_batch_size"),
        ({"eval_dataset": "file-2", "training_args.eval_strategy": "steps"}, "training_args.eval_strategy"),
        (
            {"eval_dataset": "file-2", "training_args.eval_strategy": "epoch", "training_args.eval_steps": 5},
            "training_args.eval_steps",
        ),
        ({"training_args.save_strategy": "steps"}, "training_args.save_strategy"),
        ({"training_args.save_strategy": "no", "training_args.save_steps": 5}, "training_args.save_steps"),
        ({"training_args.bf16": True, "training_args.fp16": True}, "training_args.fp16"),
        (
            {
                "opensloth_config.fast_model_args.load_in_4bit": True,
                "opensloth_config.fast_model_args.load_in_8bit": True,
            },
            "opensloth_config.fast_model_args.load_in_8bit",
        ),
        (
            {"opensloth_config.fast_model_args.full_finetuning": True, "opensloth_config.lora_args": {"r": 4}},
            "opensloth_config.lora_args",
        ),
        ({"training_args.lr_scheduler_kwargs": {"num_cycles": 2}}, "training_args.lr_scheduler_kwargs.num_cycles"),
        ({"training_args.lr_scheduler_type": "cosine_with_min_lr"}, "training_args.lr_scheduler_kwargs"),
        (
            {"opensloth_config.training_type": "dpo", "opensloth_config.sequence_packing": True},
            "opensloth_config.sequence_packing",
        ),
        ({"opensloth_config.training_type": "dpo", "opensloth_config.loss_on": "all"}, "opensloth_config.loss_on"),
        (
            {"opensloth_config.training_type": "dpo", "opensloth_config.dpo_args": {"loss_type": "exo_pair"}},
            "opensloth_config.dpo_args.label_smoothing",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, path):
    body = MINIMAL
    for changed, value in changes.items():
        body = body_with(changed, value, body)
    assert path in errors_of(body)


def test_every_problem_is_reported_once():
    body = body_with("training_args.learning_rate", float("nan"), body_with("training_args.optm", 1))
    body = body_with("priority", "now", body_with("opensloth_config.lora_args.r", True, body))
    assert sorted(errors_of(body)) == [
        "opensloth_config.lora_args.r",
        "priority",
        "training_args.learning_rate",
        "training_args.optm",
    ]


@pytest.mark.parametrize("body", [None, [], "x", 3, True, {"dataset": "\ud800"}, {"a\0": 1}, {1: 2}, {"name": b"x"}])
def test_what_is_no_job_at_all_is_refused(body):
    errors_of(body)


def test_a_deep_body_is_refused():
    deep = {}
    for _ in range(100_000):
        deep = {"a": deep}
    errors_of({"metadata": deep})


def test_a_wide_body_is_refused_with_few_errors():
    assert len(errors_of({**MINIMAL, **{f"field{n}": n for n in range(4000)}})) <= 60
    errors_of(body_with("metadata", {str(n): "v" for n in range(100_000)}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
every_path = [f"{where}.{name}" if where else name for where, names in ALLOWED.items() for name in sorted(names)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(every_path), json_values), max_size=4))
def test_no_body_raises_anything_but_invalid_input(changes):
    body = copy.deepcopy(ISSUE_EXAMPLE)
    for path, value in changes:
        owner = body
        *parents, name = path.split(".")
        for parent in parents:
            owner = owner.setdefault(parent, {}) if isinstance(owner, dict) else None
        if isinstance(owner, dict):
            owner[name] = value
    fields = fields_refused_in(body)
    json.dumps([dataclasses.asdict(field) for field in fields], allow_nan=False).encode()


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1d", 86400), (60, 60)]
)
def test_a_time_limit_is_text_or_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * 2**30), ("1.5 GB", 1_500_000_000), (7, 7)])
def test_memory_is_text_or_bytes(text, size):
    assert parse_memory(text) == size


def test_one_dependency_needs_no_list():
    assert parse_job_spec(body_with("depends_on", "ftjob-1")).depends_on == ["ftjob-1"]


def test_a_stored_spec_reads_as_it_was_posted():
    assert load_job_spec({**ISSUE_EXAMPLE, "schema_version": SCHEMA_VERSION}) == parse_job_spec(ISSUE_EXAMPLE)


def test_a_stored_spec_of_another_release_is_read_tolerantly():
    stored = body_with("training_args.learning_rate", -1, body_with("opensloth_config.future", {"x": 1}))
    stored |= {"schema_version": 99, "colour": "blue", "priority": "someday"}
    spec = load_job_spec(stored)
    assert spec.priority == "normal"
    assert spec.training_args.learning_rate == 2e-4
    assert stored["priority"] == "someday"


def test_a_stored_spec_without_a_model_says_so():
    with pytest.raises(InvalidInput) as refused:
        load_job_spec({"dataset": "file-1"})
    assert [error.path for error in refused.value.fields] == ["opensloth_config"]


def test_each_accepted_training_argument_exists_in_transformers_and_starts_from_a_value_it_takes():
    transformers = pytest.importorskip("transformers")
    real = {field.name: field for field in dataclasses.fields(transformers.TrainingArguments)}
    assert ALLOWED["training_args"] <= real.keys()
    ours = TrainingArguments(optim="adamw_torch", use_cpu=True).to_dict()
    assert transformers.TrainingArguments(**{name: value for name, value in ours.items() if name in real})


def test_each_accepted_optimizer_and_schedule_exists_in_transformers():
    pytest.importorskip("transformers")
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(OPTIMIZERS) <= {name.value for name in OptimizerNames}
    for name, parameters in SCHEDULES.items():
        assert parameters <= inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]).parameters.keys()


def test_each_accepted_dpo_argument_exists_in_trl():
    pytest.importorskip("trl")
    from trl import DPOConfig

    real = {field.name: field for field in dataclasses.fields(DPOConfig)}
    # TRL dropped max_prompt_length; our own truncation keeps it.
    assert set(DPOArgs.model_fields) - {"max_prompt_length"} <= real.keys()
    assert all(f"'{loss}'" in real["loss_type"].metadata["help"] for loss in DPO_LOSSES)


def test_each_short_name_stands_for_a_real_field():
    every = {f"{where}.{name}" if where else name for where, names in ALLOWED.items() for name in names}
    assert set(SHORT_NAMES.values()) <= every
    assert not any(names & SHORT_NAMES.keys() for names in ALLOWED.values())


def test_no_refused_field_is_accepted_anywhere():
    assert not any(names & REFUSED.keys() for names in ALLOWED.values())


def test_null_and_booleans_are_called_what_json_calls_them():
    assert errors_of(body_with("training_args.learning_rate", None))["training_args.learning_rate"].message.endswith(
        "not null"
    )
    assert errors_of(body_with("training_args.max_steps", True))["training_args.max_steps"].message.endswith("not true")


@pytest.mark.parametrize("value", ["x", "Unsloth", 3, None, []])
def test_a_field_of_true_false_or_a_word_is_refused_with_all_of_them(value):
    path = "opensloth_config.fast_model_args.use_gradient_checkpointing"
    with pytest.raises(InvalidInput) as refused:
        parse_job_spec(body_with(path, value))
    (error,) = [error for error in refused.value.fields if error.path == path]
    assert error.message.startswith('should be "unsloth", true or false, not')


@pytest.mark.parametrize("name", ["", "  "])
def test_a_job_without_a_name_is_called_by_method_and_model(name):
    assert parse_job_spec(body_with("name", name)).name == "sft-smollm2-135m"


def test_a_reward_that_is_wrong_is_not_said_to_be_missing():
    grpo = {"reward_functions": [{"name": "length", "weight": "much"}]}
    grpo_job = body_with("opensloth_config.training_type", "grpo")
    errors = errors_of(body_with("opensloth_config.grpo_args", grpo, grpo_job))
    assert list(errors) == ["opensloth_config.grpo_args.reward_functions[0].weight"]
