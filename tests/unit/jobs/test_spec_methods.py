"""What a posted job of KTO, ORPO or GRPO may say."""

from __future__ import annotations

import pytest

from opensloth.errors import InvalidInput
from opensloth.jobs.spec import load_job_spec, parse_job_spec

GRPO = {"reward_functions": ["numeric_answer"]}


def body(training_type, *, training_args=None, top=None, **config):
    own = {"training_type": training_type, "fast_model_args": {"model_name": "tiny"}, **config}
    return {"dataset": "file-1", "opensloth_config": own, "training_args": training_args or {}, **(top or {})}


def refused(posted):
    with pytest.raises(InvalidInput) as error:
        parse_job_spec(posted)
    return {field.path.removeprefix("opensloth_config."): field.message for field in error.value.fields}


@pytest.mark.parametrize(
    ("training_type", "args"),
    [
        ("kto", {"beta": 0.2, "desirable_weight": 1.5, "loss_type": "apo_zero_unpaired"}),
        ("orpo", {"beta": 0.2, "max_length": 256, "max_prompt_length": 128}),
        ("grpo", {**GRPO, "num_generations": 4, "temperature": 0.9, "beta": 0.04, "scale_rewards": False}),
    ],
)
def test_a_method_is_posted_with_its_arguments(training_type, args):
    posted = body(training_type, **{f"{training_type}_args": args})
    spec = parse_job_spec(posted)
    found = getattr(spec.opensloth_config, f"{training_type}_args").model_dump(exclude_unset=True)
    assert found.items() >= {name: value for name, value in args.items() if name != "reward_functions"}.items()
    assert load_job_spec(posted) == spec


@pytest.mark.parametrize(
    ("posted", "path", "words"),
    [
        (body("kto", dpo_args={"beta": 0.1}), "dpo_args", 'only for training_type "dpo"'),
        (body("kto", method_args={"a": 1}), "method_args", "kto_args"),
        (body("kto", kto_args={"loss_type": "bco"}), "kto_args.loss_type", "apo_zero_unpaired"),
        (body("kto", kto_args={"desirable_weight": 0}), "kto_args.desirable_weight", "greater than 0"),
        (body("kto", kto_args={"desirable": 1}), "kto_args.desirable", "did you mean desirable_weight"),
        (body("orpo", orpo_args={"max_length": 5000}), "orpo_args.max_length", "max_seq_length"),
        (body("orpo", sequence_packing=True), "sequence_packing", "does not pack"),
        (body("grpo"), "grpo_args.reward_functions", "at least one reward"),
        (body("grpo", grpo_args={"reward_functions": []}), "grpo_args.reward_functions", "at least one reward"),
        (body("grpo", grpo_args={**GRPO, "num_generations": 1}), "grpo_args.num_generations", "equal to 2"),
        (body("grpo", grpo_args={**GRPO, "num_generations": True}), "grpo_args.num_generations", "integer"),
        (body("grpo", grpo_args={**GRPO, "max_completion_length": 4096}), "grpo_args.max_completion_length", "longer"),
        (body("grpo", grpo_args={**GRPO, "loss_type": "luspo"}), "grpo_args.importance_sampling_level", "luspo"),
        (body("grpo", grpo_args={**GRPO, "reward_funcs": []}), "grpo_args.reward_funcs", "reward_functions"),
        (
            body("grpo", grpo_args=GRPO, training_args={"per_device_train_batch_size": 3}),
            "training_args.per_device_train_batch_size",
            "no multiple",
        ),
        (
            body("grpo", grpo_args={"reward_functions": [{"name": "length", "wieght": 2}]}),
            "grpo_args.reward_functions[0].wieght",
            "did you mean weight",
        ),
        (body("sft", eval_split=0.1, top={"eval_dataset": "file-2"}), "eval_split", "leave one out"),
        (body("sft", eval_split=1.0), "eval_split", "less than 1"),
        (body("sft", early_stopping_patience=2), "early_stopping_patience", "nothing to evaluate on"),
        (
            body("sft", training_args={"load_best_model_at_end": True}),
            "training_args.load_best_model_at_end",
            "nothing to evaluate on",
        ),
        (
            body("sft", eval_split=0.1, early_stopping_patience=2, training_args={"eval_strategy": "no"}),
            "early_stopping_patience",
            "eval_strategy",
        ),
    ],
)
def test_what_cannot_be_is_named_with_its_field(posted, path, words):
    found = refused(posted)
    assert words in found[path], found


def test_a_split_needs_no_second_file():
    args = {"eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": True}
    spec = parse_job_spec(body("sft", eval_split=0.05, early_stopping_patience=3, training_args=args))
    assert spec.opensloth_config.eval_split == 0.05
