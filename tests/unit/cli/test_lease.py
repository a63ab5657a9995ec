"""`opensloth lease` sends the command as it is, prints its output, and gives its exit code."""

from __future__ import annotations

import json

import httpx
import pytest

from opensloth.cli import lease as module
from tests.support.fake_api import job, problem

ID = job()["id"]
ARGUMENTS = ["lease", "--time-limit", "2h", "--gpus", "2", "-C", "/work", "--env", "A=b=c"]


@pytest.fixture
def leased(api):
    api.on("POST /v1/leases", httpx.Response(201, json=job("queued")))
    api.on(f"GET /v1/jobs/{ID}", job("running"), job("failed", result={"exit_code": 7}))
    api.on(f"GET /v1/jobs/{ID}/logs", httpx.Response(200, text="one\n"), httpx.Response(200, text="one\ntwo\n"))
    return api


def test_output_and_exit_code_are_the_commands(leased, run):
    done = run(*ARGUMENTS, "--", "python", "mine.py", "--lr", "1e-4")
    assert (done.code, done.out) == (7, "one\ntwo\n")
    assert json.loads(leased.seen("POST /v1/leases")[0].content) == {
        "command": ["python", "mine.py", "--lr", "1e-4"],
        "time_limit": "2h",
        "gpus": 2,
        "priority": "normal",
        "directory": "/work",
        "environment": {"A": "b=c"},
    }


def test_ctrl_c_ends_it_where_nobody_can_be_asked(leased, run, monkeypatch):
    leased.on(f"GET /v1/jobs/{ID}", job("running"), job("cancelled"))
    leased.on(f"POST /v1/jobs/{ID}/cancel", job("stopping"))
    reads = iter([KeyboardInterrupt(), httpx.Response(200, text="one\n")])

    def answer(_request: httpx.Request) -> httpx.Response:
        read = next(reads)
        if isinstance(read, KeyboardInterrupt):
            raise read
        return read

    leased.on(f"GET /v1/jobs/{ID}/logs", answer)
    done = run(*ARGUMENTS, "--", "sleep", "9")
    assert done.code == 3
    assert len(leased.seen(f"POST /v1/jobs/{ID}/cancel")) == 1


def test_ctrl_c_leaves_it_running_if_that_is_the_answer(leased, run, monkeypatch):
    def interrupt(_request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    leased.on(f"GET /v1/jobs/{ID}/logs", interrupt)
    monkeypatch.setattr(module.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(module.typer, "confirm", lambda *_, **__: False)
    done = run(*ARGUMENTS, "--", "sleep", "9")
    assert done.code == 130
    assert "goes on" in done.err


def test_detached_it_is_only_submitted(leased, run):
    done = run(*ARGUMENTS, "--detach", "--", "sleep", "9")
    assert (done.code, done.out) == (0, "")
    assert f"opensloth logs -f {ID}" in done.err
    assert json.loads(run(*ARGUMENTS, "--json", "--", "sleep", "9").out)["id"] == ID


def test_a_refusal_says_what_to_do(api, run):
    api.on("POST /v1/leases", problem(403, "leases_off", "no host runs commands", hint="OPENSLOTH_LEASES=on"))
    done = run(*ARGUMENTS, "--", "true")
    assert done.code == 1
    assert "OPENSLOTH_LEASES=on" in done.err
    assert run(*ARGUMENTS[:-1], "A", "--", "true").code == 2
