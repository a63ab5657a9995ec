"""`opensloth estimate`: the same file as `submit`, and nothing is submitted."""

from __future__ import annotations

import json

import pytest

from api.examples import ESTIMATE_EXAMPLE
from opensloth.cli.formats import moment
from tests.support.fake_api import problem


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: tone\ndataset: file-1\ntraining_args:\n  learning_rate: 5e-6\n")
    return path


def test_the_estimate_is_shown_as_tables(api, run, spec):
    api.on("POST /v1/jobs/estimate", ESTIMATE_EXAMPLE)
    shown = run("estimate", str(spec), "--set", "training_args.max_steps=300")
    assert shown.code == 0
    assert json.loads(api.seen("POST /v1/jobs/estimate")[0].content)["training_args"]["max_steps"] == 300
    for text in ("7.4 GB on its device (estimated)", "base weights", "2.5 GB", "a checkpoint", "GPU-5e1c3b2a"):
        assert text in shown.out
    assert "about 11 min 01 s for 300 steps" in shown.out
    start = moment("2026-11-22T14:20:00Z")
    assert f"Expected start: {start}" in shown.out
    assert "T14:20" not in shown.out
    assert not api.seen("POST /v1/jobs")


def test_what_nobody_knows_is_said(api, run, spec):
    unknown = {"object": "estimate", "basis": "unknown", "memory_bytes": None, "devices": 2, "notes": ["its size"]}
    api.on("POST /v1/jobs/estimate", unknown)
    shown = run("estimate", str(spec))
    assert shown.out.splitlines() == ["Takes whole devices (not known)", "its size"]


def test_json_is_what_the_server_said(api, run, spec):
    api.on("POST /v1/jobs/estimate", ESTIMATE_EXAMPLE)
    assert json.loads(run("estimate", str(spec), "--json").out) == ESTIMATE_EXAMPLE


def test_a_mistake_names_its_line(api, run, spec):
    wrong = [{"path": "training_args.learning_rate", "message": "too large", "code": "invalid", "row": None}]
    api.on("POST /v1/jobs/estimate", problem(422, "invalid_input", "the job is wrong", errors=wrong))
    shown = run("estimate", str(spec))
    assert shown.code == 2
    assert shown.err.splitlines()[-1].split() == ["training_args.learning_rate", "4", "too", "large"]
