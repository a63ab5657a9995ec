"""The example data and job files: they are what the service takes."""

import json
from pathlib import Path

import pytest

from opensloth.cli.specfile import read_spec
from opensloth.datasets.readers import iter_rows
from opensloth.jobs.spec import parse_job_spec
from opensloth.rewards import RewardPolicy, build_rewards
from tests.support.datasets import check_file

EXAMPLES = Path(__file__).parents[2] / "examples"
DATASETS = EXAMPLES / "datasets"


@pytest.mark.parametrize("name", ["sft.yaml", "dpo.yaml", "kto.yaml", "orpo.yaml", "grpo.yaml"])
def test_an_example_job_is_accepted_with_its_files_uploaded(name):
    spec = read_spec(EXAMPLES / name).spec
    for field in ("dataset", "eval_dataset"):
        assert (EXAMPLES / spec[field]).is_file()
        spec[field] = f"file-{field}"
    job = parse_job_spec(spec)
    assert job.opensloth_config.training_type == name.removesuffix(".yaml")


def test_the_example_rewards_can_judge_the_example_data():
    job = read_spec(EXAMPLES / "grpo.yaml").spec
    rewards = build_rewards(job["opensloth_config"]["grpo_args"]["reward_functions"], RewardPolicy())
    for field in ("dataset", "eval_dataset"):
        for row in iter_rows(EXAMPLES / job[field]):
            assert [reward.row_problem(row) for reward in rewards] == [None, None]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("support_sft.jsonl", "sft"),
        ("support_sft_eval.jsonl", "sft"),
        ("support_preferences.jsonl", "dpo"),
        ("support_preferences_eval.jsonl", "dpo"),
        ("support_preferences.jsonl", "orpo"),
        ("support_feedback.jsonl", "kto"),
        ("support_feedback_eval.jsonl", "kto"),
        ("till_sums.jsonl", "grpo"),
        ("till_sums_eval.jsonl", "grpo"),
    ],
)
def test_an_example_dataset_serves_its_method(name, method):
    check = check_file(DATASETS / name)
    assert check.methods[method].ok
    assert check.rows > 5


def test_no_question_is_in_two_datasets():
    questions = []
    for file in sorted(DATASETS.glob("*.jsonl")):
        for row in iter_rows(file):
            messages = row.get("messages") or row["prompt"]
            questions.append(messages[0]["content"])
    assert len(questions) == len(set(questions))


def test_every_good_answer_has_a_next_step_and_a_signature():
    answers = []
    for file in sorted(DATASETS.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("label") is False:
                continue
            messages = row.get("messages") or row.get("chosen") or row.get("completion") or []
            answers += [message["content"] for message in messages if message["role"] == "assistant"]
    assert len(answers) > 130
    for answer in answers:
        assert "\nNext step: " in answer
        assert answer.endswith("\n— Mara, Fernhill Cycles")
