"""The commands that look at jobs, and what a person may type for one."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.support.fake_api import event, job, problem

ID = job()["id"]
OTHER = "ftjob-" + "ab" * 12


@pytest.fixture
def listed(api):
    api.on(
        "GET /v1/jobs", {"object": "list", "data": [job("succeeded"), job("failed") | {"id": OTHER}], "has_more": False}
    )
    api.on(f"GET /v1/jobs/{ID}", job("succeeded"))
    api.on(f"GET /v1/jobs/{OTHER}", job("failed") | {"id": OTHER})
    return api


@pytest.mark.parametrize(("typed", "meant"), [("last", ID), (ID, ID), ("aaaa", ID), ("ftjob-aaa", ID), ("ab", OTHER)])
def test_a_job_is_found_by_id_beginning_or_last(listed, run, typed, meant):
    assert json.loads(run("show", typed, "--json").out)["id"] == meant


def test_a_beginning_of_several_jobs_is_refused_with_their_ids(listed, run):
    done = run("show", "a")
    assert done.code == 2
    assert ID in done.err
    assert OTHER in done.err


def test_a_beginning_of_none_says_how_to_list(listed, run):
    done = run("show", "ffff")
    assert done.code == 1
    assert "opensloth jobs" in done.err


def test_the_list_has_a_line_for_each_job(listed, run):
    lines = run("jobs").out.splitlines()
    assert lines[0].split()[:3] == ["ID", "Name", "State"]
    assert [line.split()[2] for line in lines[1:]] == ["succeeded", "failed"]


def test_show_says_what_was_set_and_why_the_rest_is_as_it_is(api, run):
    resolved = {
        "engine": "transformers",
        "device": "cpu",
        "opensloth_config": {"lora_args": {"r": 16, "lora_alpha": 16}},
        "training_args": {"learning_rate": 0.0002},
        "why": {"opensloth_config.lora_args.lora_alpha": "follows r"},
    }
    api.on(f"GET /v1/jobs/{ID}", job(spec={"opensloth_config": {"lora_args": {"r": 16}}}, resolved=resolved))
    out = run("show", ID).out
    assert "lora_args.r" in out
    assert "follows r" in out
    assert "transformers on cpu" in out


def test_each_job_stays_on_one_line_of_a_narrow_terminal(listed, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed.on("GET /v1/jobs", {"data": [job("cancelled") | {"name": "a name of many words " * 3}], "has_more": False})
    header, line = run("jobs").out.splitlines()
    assert ID in line
    assert "cancelled" in line
    assert "…" in line
    assert max(len(header), len(line)) <= 80


def test_a_pipe_gets_whole_names(listed, run, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    listed.on("GET /v1/jobs", {"data": [job("queued") | {"name": "many words many words end"}], "has_more": False})
    assert "many words many words end" in run("jobs").out.splitlines()[1]


def test_watch_of_an_ended_job_replays_it_and_gives_its_code(listed, run):
    end = event(1, "state", **{"from": "queued", "to": "failed", "reason": "cuda_oom"})
    listed.on(f"GET /v1/jobs/{OTHER}/events", {"data": [end], "has_more": False, "last_id": "1"})
    done = run("watch", OTHER)
    assert done.code == 1
    assert "failed (cuda_oom)" in done.out
    lines = run("watch", OTHER, "--json").out.splitlines()
    assert [json.loads(line).get("object") for line in lines] == ["event", "job"]


def test_logs_are_printed_as_they_are(listed, run):
    listed.on(f"GET /v1/jobs/{ID}/logs", httpx.Response(200, text="[a] 100%\n"))
    assert run("logs", ID).out == "[a] 100%\n"
    assert run("logs", "-f", ID).out == "[a] 100%\n"


def test_cancelling_what_has_ended_says_so(listed, run):
    listed.on(f"POST /v1/jobs/{ID}/cancel", problem(409, "conflict", "it has ended"))
    done = run("cancel", ID)
    assert done.code == 0
    assert "has ended: succeeded" in done.err


def test_without_a_server_the_exit_code_says_so(run, monkeypatch):
    monkeypatch.setenv("OPENSLOTH_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENSLOTH_API_KEY", "x")
    done = run("jobs")
    assert done.code == 4
    assert "is `opensloth up` running?" in done.err


def test_download_verifies_and_names_what_is_missing(listed, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact = {
        "name": "a.txt",
        "bytes": 2,
        "sha256": "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4",
    }
    listed.on(f"GET /v1/jobs/{ID}/artifacts", {"data": [artifact], "has_more": False})
    listed.on(f"GET /v1/jobs/{ID}/artifacts/a.txt", httpx.Response(200, text="hi"))
    assert run("download", ID, "-o", "out").code == 0
    assert (tmp_path / "out" / "a.txt").read_text() == "hi"
    missing = run("download", ID, "b.txt")
    assert missing.code == 1
    assert "There are: a.txt" in missing.err


def test_wrong_usage_is_code_two(run):
    assert run("show").code == 2
    assert run("nonsense").code == 2


def test_show_says_what_a_queued_job_waits_for(api, run):
    told = {"position": 3, "waiting_for": "4 GPUs; 3 free", "expected_start": None}
    api.on(f"GET /v1/jobs/{ID}", job("queued", queue=told))
    lines = [line.split() for line in run("show", ID).out.splitlines()]
    assert ["waits", "for", "4", "GPUs;", "3", "free"] in lines
    assert ["queue", "number", "3"] in lines
