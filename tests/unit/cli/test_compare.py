"""`opensloth submit --from`, `diff` and `rewards`."""

from __future__ import annotations

import json

import pytest

from tests.support.fake_api import job

A, B = "ftjob-" + "a" * 24, "ftjob-" + "b" * 24
SPEC = {
    "name": "tone",
    "dataset": "file-1",
    "opensloth_config": {"training_type": "kto", "fast_model_args": {"model_name": "tiny"}},
    "training_args": {"learning_rate": 5e-6, "max_steps": 10},
}


@pytest.fixture
def two_jobs(api):
    changed = {**SPEC, "training_args": {"learning_rate": 1e-5, "max_steps": 10}}
    why = {"training_args.optim": "a reason"}
    for job_id, spec, loss in ((A, SPEC, 0.5), (B, changed, 0.25)):
        resolved = {"training_args": spec["training_args"] | {"optim": "adamw_torch"}, "engine": "transformers"}
        shown = job("succeeded", id=job_id, spec=spec, resolved=resolved | {"why": why}, metrics={"loss": loss})
        why = {}
        api.on(f"GET /v1/jobs/{job_id}", shown)
    return api


def test_a_job_is_cloned_with_what_set_changes(two_jobs, run):
    two_jobs.on("POST /v1/jobs", job("queued"))
    outcome = run("submit", "--from", A, "--set", "training_args.learning_rate=1e-5", "--set", "name=slower")
    assert outcome.code == 0, outcome.err
    posted = json.loads(two_jobs.seen("POST /v1/jobs")[-1].content)
    assert posted == SPEC | {"name": "slower", "training_args": {"learning_rate": 1e-5, "max_steps": 10}}


def test_a_file_and_a_job_cannot_both_be_submitted(two_jobs, run, tmp_path):
    (tmp_path / "job.yaml").write_text("dataset: file-1\n")
    assert run("submit", str(tmp_path / "job.yaml"), "--from", A).code == 2
    assert run("submit").code == 2
    assert not two_jobs.seen("POST /v1/jobs")


def test_diff_shows_what_was_posted_what_it_came_to_and_what_came_out(two_jobs, run):
    found = json.loads(run("diff", A, B, "--json").out)
    rate = {"training_args.learning_rate": [5e-6, 1e-5]}
    assert found == {
        "jobs": [A, B],
        "differences": {"spec": rate, "resolved": rate, "data": {}, "metrics": {"loss": [0.5, 0.25]}},
    }
    shown = run("diff", A, B).out
    assert "training_args.learning_rate" in shown
    assert "max_steps" not in shown


def test_a_job_does_not_differ_from_itself(two_jobs, run):
    assert "do not differ" in run("diff", A, A).err + run("diff", A, A).out


def test_rewards_are_listed_with_parameters_and_columns(api, run):
    schema = {"properties": {"column": {"default": "answer"}, "pattern": {}}, "required": ["pattern"]}
    entry = {"name": "regex", "description": "Finds it.", "parameters": schema, "columns": ["answer"]}
    api.on("GET /v1/rewards", {"object": "list", "data": [entry | {"column_parameters": ["column"]}]})
    assert json.loads(run("rewards", "--json").out)[0]["name"] == "regex"
    shown = run("rewards").out
    assert all(text in shown for text in ("regex", "pattern*", "answer", "Finds it."))
