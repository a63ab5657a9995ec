from __future__ import annotations

import pytest

from opensloth.models.names import checkpoint_model_name, parse_checkpoint_model, result_name

JOB = "ftjob-0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("suffix", "slug"),
    [("Support-Bot", "Support-Bot"), ("my model: v2!", "my-model-v2"), ("", ""), ("漢字", ""), ("x" * 80, "x" * 64)],
)
def test_a_result_is_named_after_base_team_suffix_and_job(suffix: str, slug: str) -> None:
    assert result_name("org/Model-1B", "red", suffix, JOB) == f"ft:Model-1B:red:{slug}:0123456789abcdef01234567"


def test_a_checkpoints_name_leads_back_to_its_job_and_step() -> None:
    name = checkpoint_model_name(result_name("tiny", "red", "a:b", JOB), 12)
    assert name.endswith(":ckpt-step-12")
    assert parse_checkpoint_model(name) == (JOB, 12)


@pytest.mark.parametrize(
    "name", ["tiny", "ft:tiny:red:x:0123456789abcdef01234567", f"{JOB}:ckpt-step-1", ":ckpt-step-1"]
)
def test_other_names_are_no_checkpoints(name: str) -> None:
    assert parse_checkpoint_model(name) is None
