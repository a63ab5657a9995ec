"""What a job may ask for, and how mistakes are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opensloth.errors import FieldError, InvalidInput
from opensloth.rewards import RewardPolicy, RewardSpec, build_rewards, describe_rewards, reward_map

URL = "http://scores.example:9000/score"
POLICY = RewardPolicy(urls=(URL,))


def mistakes(*specs: object, policy: RewardPolicy = POLICY, path: str = "reward_functions") -> list[FieldError]:
    with pytest.raises(InvalidInput) as caught:
        build_rewards(list(specs), policy, path=path)  # type: ignore[arg-type]
    return list(caught.value.fields)


def test_a_plain_string_is_a_name_with_weight_one():
    (bound,) = build_rewards(["exact_match"], POLICY)
    assert bound.spec == RewardSpec(name="exact_match", weight=1.0, params={})
    assert bound.columns == ("answer",)


def test_two_of_one_kind_get_labels_of_their_own():
    bound = build_rewards(
        [{"name": "regex", "params": {"pattern": "a"}}, {"name": "regex", "params": {"pattern": "b"}}], POLICY
    )
    assert [item.label for item in bound] == ["regex", "regex_2"]


def test_an_unknown_reward_names_the_nearest():
    (error,) = mistakes("exact_mach")
    assert error.path == "reward_functions[0].name"
    assert "did you mean 'exact_match'" in error.message


def test_an_unknown_parameter_names_the_nearest_and_every_mistake_is_told_at_once():
    errors = mistakes(
        {"name": "regex", "params": {"pattern": "a", "ignorecase": True}},
        "exact_match",
        {"name": "length", "params": {"max": -1}},
        path="opensloth_config.grpo_args.reward_functions",
    )
    paths = [error.path for error in errors]
    base = "opensloth_config.grpo_args.reward_functions"
    assert paths == [f"{base}[0].params.ignorecase", f"{base}[2].params.max"]
    assert "did you mean 'ignore_case'" in errors[0].message


@pytest.mark.parametrize(
    ("name", "params", "path"),
    [
        ("regex", {}, "params.pattern"),
        ("regex", {"pattern": "("}, "params.pattern"),
        ("regex", {"pattern": "a", "ignore_case": "yes"}, "params.ignore_case"),
        ("length", {}, "params"),
        ("length", {"min": 5, "max": 3}, "params"),
        ("length", {"target": 5, "max": 3}, "params"),
        ("numeric_answer", {"tolerance": -1}, "params.tolerance"),
        ("numeric_answer", {"tolerance": float("nan")}, "params.tolerance"),
        ("code_tests", {"timeout_s": 3600}, "params.timeout_s"),
        ("string_check", {"reference": "{{item}}"}, "params.reference"),
        ("text_similarity", {"reference": "{{item.a}}", "evaluation_metric": "cosine"}, "params.evaluation_metric"),
        ("http", {"url": "http://scores.example:9000/other"}, "params.url"),
        ("http", {"url": URL + "/"}, "params.url"),
        ("file:nothing", {}, "name"),
        ("file:../../etc/passwd", {}, "name"),
    ],
)
def test_a_bad_parameter_is_named_by_its_field(name, params, path):
    (error,) = mistakes({"name": name, "params": params})
    assert error.path == f"reward_functions[0].{path}"


@pytest.mark.parametrize("spec", [{"name": "length", "wieght": 2}, {"name": "length", "weight": float("inf")}, {}, 3])
def test_a_bad_entry_is_refused(spec):
    assert mistakes(spec)[0].path.startswith("reward_functions[0]")


def test_no_reward_at_all_is_refused():
    assert mistakes()[0].path == "reward_functions"


def test_a_missing_column_is_told_before_training():
    (bound,) = build_rewards([{"name": "numeric_answer", "params": {"column": "solution"}}], POLICY)
    (error,) = bound.missing_columns(["prompt", "answer"])
    assert error.path == "reward_functions[0]"
    assert "`solution`" in error.message
    assert "`answer`" in error.message


@pytest.mark.parametrize(
    ("spec", "row", "part"),
    [
        ("numeric_answer", {"answer": "none at all"}, "holds no number"),
        ("numeric_answer", {"answer": None}, "missing or null"),
        ("exact_match", {"answer": float("nan")}, "is NaN"),
        ("exact_match", {"answer": {"a": 1}}, "must be text or a number"),
        ("exact_match", {"answer": []}, "empty list"),
        ("code_tests", {"tests": ["assert f(1) ==="]}, "no Python"),
        ("code_tests", {"tests": "  "}, "blank"),
        ({"name": "string_check", "params": {"reference": "{{item.a.b}}"}}, {"a": {"c": 1}}, "`a.b`"),
    ],
)
def test_a_row_that_cannot_be_judged_is_told_with_the_reward_and_column(spec, row, part):
    (bound,) = build_rewards([spec], POLICY)
    assert part in (bound.row_problem(row) or "")
    assert bound.label in (bound.row_problem(row) or "")


def test_every_reward_describes_itself_in_json_with_a_sentence_for_each_parameter():
    described = json.loads(json.dumps(describe_rewards(POLICY)))
    by_name = {entry["name"]: entry for entry in described["data"]}
    assert set(by_name) == set(reward_map)
    for entry in by_name.values():
        assert entry["description"]
        for name, parameter in entry["parameters"]["properties"].items():
            assert parameter.get("description"), (entry["name"], name)
    assert by_name["http"]["urls"] == [URL]
    assert by_name["numeric_answer"]["column_parameters"] == ["column"]
    columns = {"numeric_answer": ["answer"], "code_tests": ["tests"], "length": [], "string_check": []}
    assert {name: by_name[name]["columns"] for name in columns} == columns


def test_listing_and_building_import_neither_torch_nor_what_only_scoring_needs():
    program = (
        "import sys, opensloth.rewards as r\n"
        "r.describe_rewards(r.RewardPolicy())\n"
        "r.build_rewards(['numeric_answer', 'code_tests', 'exact_match'], r.RewardPolicy())\n"
        "print([m for m in ('torch', 'transformers', 'sympy', 'httpx', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "[]"


def test_a_grader_of_any_depth_is_read():
    long = f"def grade(sample, item):\n    return {'+'.join(['1'] * 2000)}\n"
    policy = RewardPolicy(python=True)
    assert build_rewards([{"name": "python", "params": {"source": long}}], policy)
    (error,) = mistakes({"name": "python", "params": {"source": f"{long}import nltk\n"}}, policy=policy)
    assert "imports `nltk`, which graders do not have here" in error.message
