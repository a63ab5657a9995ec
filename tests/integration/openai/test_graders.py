"""`client.fine_tuning.alpha.graders` against the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest

from opensloth.rewards import trial
from opensloth.settings import Settings
from tests.integration.openai.conftest import client_for
from tests.support.http_server import serve
from tests.support.openai_strict import Checker

CHECK = {
    "type": "string_check",
    "name": "right",
    "input": "{{ sample.output_text }}",
    "reference": "{{item.reference_answer}}",
    "operation": "ilike",
}
CLOSE = {
    "type": "text_similarity",
    "name": "close",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
    "evaluation_metric": "fuzzy_match",
}
SOURCE = "import json\ndef grade(sample, item):\n    return json.loads(sample['output_text'])['n'] / item['of']\n"
HELPER = "opensloth.rewards.helper"
RATIO = """
from rapidfuzz import fuzz, utils

def grade(sample, item) -> float:
    given = sample["output_text"], item["reference_answer"]
    return fuzz.WRatio(*given, processor=utils.default_process) / 100.0
"""
PYTHON = {"type": "python", "name": "share", "source": SOURCE, "image_tag": "2025-05-08"}


@pytest.fixture
def allowed(settings: Settings, key: str, checker: Checker) -> Iterator[openai.OpenAI]:
    """A server whose admin allows Python."""
    with (
        serve(settings.model_copy(update={"reward_python": True})) as url,
        client_for(f"{url}/v1", key, checker) as made,
    ):
        yield made


def run(client: openai.OpenAI, grader: dict[str, Any], sample: str, item: dict[str, Any]) -> Any:
    return client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item)  # type: ignore[arg-type]


def test_graders_give_what_they_say_and_tell_what_went_wrong(client: openai.OpenAI) -> None:
    graders = client.fine_tuning.alpha.graders
    assert graders.validate(grader=CHECK).grader.name == "right"  # type: ignore[arg-type,union-attr]
    both = {"type": "multi", "name": "both", "graders": {"a": CHECK, "b": CLOSE}, "calculate_output": "0.5*a + 0.5*b"}
    found = run(client, both, "abc d", {"reference_answer": "abc"})
    assert found.sub_rewards == {"a": 1.0, "b": 0.75}
    assert (found.reward, found.metadata.type) == (0.875, "multi")
    missing = run(client, CHECK, "abc", {"answer": "a"})
    assert (missing.reward, missing.metadata.errors.invalid_variable_error) == (0.0, True)
    in_json = {**CHECK, "input": "{{sample.output_json.city}}"}
    assert run(client, in_json, '{"city": "Bonn"}', {"reference_answer": "bonn"}).reward == 1.0
    assert run(client, in_json, "Bonn", {"reference_answer": "bonn"}).metadata.errors.sample_parse_error


def test_trials_share_helpers_which_stay(client: openai.OpenAI) -> None:
    def helpers() -> set[int]:
        return {child.pid for child in psutil.Process().children() if HELPER in child.cmdline()}

    for _ in range(trial.AT_ONCE + 2):
        before = helpers()
        assert run(client, CHECK, "PARIS", {"reference_answer": "Paris"}).reward == 1.0
    assert before & helpers()
    assert len(helpers()) <= trial.AT_ONCE


def test_python_runs_where_it_is_allowed_and_its_failures_are_told(allowed: openai.OpenAI) -> None:
    assert run(allowed, PYTHON, '{"n": 3}', {"of": 4}).reward == 0.75
    failed = run(allowed, PYTHON, "no json", {"of": 4})
    assert (failed.reward, failed.metadata.errors.python_grader_runtime_error) == (0.0, True)
    assert "JSONDecodeError" in failed.metadata.errors.python_grader_runtime_error_details
    assert run(allowed, {**PYTHON, "source": RATIO}, "Fuzzy  wuzzy", {"reference_answer": "fuzzy wuzzy!"}).reward > 0.9
    secret = "import os\ndef grade(sample, item):\n    return len(os.environ.get('OPENSLOTH_HOME', ''))\n"
    assert run(allowed, {**PYTHON, "source": secret}, "x", {}).reward == 0.0


def test_a_package_that_graders_do_not_have_is_named_before_a_job_needs_it(allowed: openai.OpenAI) -> None:
    source = "import numpy, sklearn.metrics\ndef grade(sample, item):\n    from nltk import bleu\n    return 1.0\n"
    with pytest.raises(openai.BadRequestError, match="imports `nltk`, `sklearn`, which") as caught:
        allowed.fine_tuning.alpha.graders.validate(grader={**PYTHON, "source": source})  # type: ignore[arg-type]
    assert caught.value.param == "grader.source"
    tries = "try:\n    import nltk\nexcept ImportError:\n    nltk = None\ndef grade(sample, item):\n    return 0.5\n"
    assert run(allowed, {**PYTHON, "source": tries}, "x", {}).reward == 0.5


@pytest.mark.parametrize(
    ("grader", "param", "words"),
    [
        (PYTHON, "grader.type", "OPENSLOTH_REWARD_PYTHON"),
        ({"type": "score_model", "name": "x", "model": "gpt-4o", "input": []}, "grader.type", "asks another model"),
        ({"type": "label_model", "name": "x"}, "grader.type", "asks another model"),
        ({**CHECK, "operation": "equals"}, "grader.operation", "'ilike'"),
        ({**CHECK, "reference": "{{item}}"}, "grader.reference", "unknown place"),
        ({**CHECK, "refrence": "x"}, "grader.refrence", "did you mean `reference`"),
        ({**CLOSE, "evaluation_metric": "cosine"}, "grader.evaluation_metric", "no embedding model"),
        ({**CLOSE, "evaluation_metric": "meteor"}, "grader.evaluation_metric", "WordNet"),
        ({"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "a + b"}, "grader", "names 'b'"),
        ({"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "a.real"}, "grader", "may use"),
        ({"type": "multi", "name": "m", "graders": CHECK}, "grader.calculate_output", "is missing"),
    ],
)
def test_a_grader_that_cannot_be_used_says_where_and_why(
    client: openai.OpenAI, grader: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.alpha.graders.validate(grader=grader)  # type: ignore[arg-type]
    assert caught.value.param == param
    assert words in caught.value.message
