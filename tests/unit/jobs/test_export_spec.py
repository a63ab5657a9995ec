"""What the body of an export may say, and what is said of one that says something else."""

from __future__ import annotations

from typing import Any

import pytest

from opensloth.errors import InvalidInput
from opensloth.jobs.export_spec import parse_export_spec

PUSH = {"repo": "team/tone", "secret": "hf"}


def test_a_gguf_file_is_q8_0_and_a_push_private_where_nothing_is_said() -> None:
    spec = parse_export_spec({"format": "gguf", "push_to_hub": PUSH})
    assert spec.quantization == "q8_0"
    assert spec.push_to_hub is not None
    assert spec.push_to_hub.private
    assert parse_export_spec({"format": "merged_16bit"}).quantization is None


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], ""),
        ({}, "format"),
        ({"format": "onnx"}, "format"),
        ({"format": "gguf", "quantization": "q4_k_m"}, "quantization"),
        ({"format": "merged_16bit", "quantization": "q8_0"}, "quantization"),
        ({"format": "gguf", "quantisation": "q8_0"}, "quantisation"),
        ({"format": "adapter", "push_to_hub": {"repo": "team/tone"}}, "push_to_hub.secret"),
        ({"format": "adapter", "push_to_hub": {**PUSH, "repo": "tone"}}, "push_to_hub.repo"),
        ({"format": "adapter", "push_to_hub": {**PUSH, "repo": "../../x"}}, "push_to_hub.repo"),
        ({"format": "adapter", "push_to_hub": {**PUSH, "token": "hf_abc"}}, "push_to_hub.token"),
        ({"format": "adapter", "push_to_hub": {**PUSH, "private": "no"}}, "push_to_hub.private"),
        ({"format": "adapter", "max_retries": True}, "max_retries"),
    ],
)
def test_what_is_wrong_is_named(body: Any, path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_export_spec(body)
    assert path in [field.path for field in refused.value.fields]


def test_a_misspelt_field_is_answered_with_the_nearest_real_one() -> None:
    with pytest.raises(InvalidInput, match="quantization"):
        parse_export_spec({"format": "gguf", "quantisation": "q8_0"})
