"""`GET /v1/rewards`, and the rewards of a job checked when it is submitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import add_file, add_model

URL = "http://judge.example/score"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    folder = tmp_path / "rewards"
    folder.mkdir(mode=0o755)
    source = "COLUMNS = ['mood']\n\ndef reward(completions, rows, kind=1):\n    '''How kind it is.'''\n    return []\n"
    (folder / "kindness.py").write_text(source)
    return settings.model_copy(update={"reward_urls": f"{URL} http://other.example/", "rewards_dir": folder})


@pytest.fixture
def submit(admin, services: Services):
    add_model(services)
    dataset = add_file(services, [{"prompt": "2 + 2?", "answer": "4"}, {"prompt": "3 + 3?", "answer": "6"}])

    def post(*rewards):
        config = {
            "training_type": "grpo",
            "fast_model_args": {"model_name": "tiny"},
            "grpo_args": {"reward_functions": list(rewards)},
        }
        return admin.post("/v1/jobs", json={"dataset": dataset, "opensloth_config": config})

    return post


def errors_of(answer):
    assert answer.status_code == 422, answer.text
    return {
        error["path"].removeprefix("opensloth_config.grpo_args."): error["message"] for error in answer.json()["errors"]
    }


def test_rewards_are_listed_with_parameters_and_columns(member, anyone):
    listed = {entry["name"]: entry for entry in member.get("/v1/rewards").json()["data"]}
    built_in = {"exact_match", "numeric_answer", "regex", "json_schema", "length", "code_tests", "http"}
    assert built_in <= listed.keys()
    assert "properties" in listed["numeric_answer"]["parameters"]
    assert listed["http"]["urls"] == [URL, "http://other.example/"]
    own = listed["file:kindness"]
    assert (own["description"], own["columns"], own["source"]) == ("How kind it is.", ["mood"], "file")
    assert anyone.get("/v1/rewards").status_code == 401


def test_a_job_names_rewards_by_name_or_with_weight_and_parameters(submit):
    http = {"name": "http", "params": {"url": URL}}
    answer = submit("numeric_answer", {"name": "length", "weight": 0.1, "params": {"max": 80}}, http)
    assert answer.status_code == 201, answer.text


def test_what_is_wrong_with_a_reward_is_said_when_the_job_is_submitted(submit):
    wrong = errors_of(
        submit(
            "numeric_anser",
            {"name": "regex", "params": {"patern": "a"}},
            {"name": "http", "params": {"url": "http://evil.example/"}},
        )
    )
    assert "did you mean 'numeric_answer'" in wrong["reward_functions[0].name"]
    assert "did you mean 'pattern'" in wrong["reward_functions[1].params.patern"]
    assert "OPENSLOTH_REWARD_URLS" in wrong["reward_functions[2].params.url"]


def test_a_column_that_a_reward_reads_must_be_in_the_file(submit):
    missing = errors_of(submit({"name": "exact_match", "params": {"column": "solution"}}, "file:kindness"))
    assert "`solution`" in missing["reward_functions[0]"]
    assert "`answer`" in missing["reward_functions[0]"]
    assert "`mood`" in missing["reward_functions[1]"]
