"""The commands that change jobs say what they did, and give JSON to programs."""

from __future__ import annotations

import json

import pytest

from tests.support.fake_api import job, problem

ID = job()["id"]


def sent(api, route: str) -> dict:
    content = api.seen(route)[-1].content
    return json.loads(content) if content else {}


@pytest.mark.parametrize(
    ("command", "route", "body", "answer", "said"),
    [
        (["cancel", ID], f"POST /v1/jobs/{ID}/cancel", {}, "stopping", "saves what it has"),
        (
            ["cancel", ID, "--no-save"],
            f"POST /v1/jobs/{ID}/cancel",
            {"save": False},
            "stopping",
            "without a checkpoint",
        ),
        (["pause", ID], f"POST /v1/jobs/{ID}/pause", {}, "stopping", f"opensloth resume {ID}"),
        (["resume", ID], f"POST /v1/jobs/{ID}/resume", {}, "queued", "is queued"),
        (["move", ID, "--to", "front"], f"POST /v1/jobs/{ID}/move", {"to": "front"}, "queued", "at the front"),
        (["move", ID, "--before", ID], f"POST /v1/jobs/{ID}/move", {"before": ID}, "queued", "stands before"),
        (["priority", ID, "low"], f"PATCH /v1/jobs/{ID}", {"priority": "low"}, "queued", "has priority low"),
        (["keep", ID], f"PATCH /v1/jobs/{ID}", {"keep": True}, "succeeded", "is kept"),
        (["keep", ID, "--off"], f"PATCH /v1/jobs/{ID}", {"keep": False}, "succeeded", "goes with its age"),
    ],
)
def test_a_command_sends_what_it_was_told(api, run, command, route, body, answer, said):
    api.on(route, job(answer))
    done = run(*command)
    assert (done.code, done.out) == (0, "")
    assert said in done.err
    assert sent(api, route) == body
    assert json.loads(run(*command, "--json").out)["state"] == answer


def test_a_retry_is_told_as_a_submission_and_waited_for_with_json_too(api, run):
    api.on(f"POST /v1/jobs/{ID}/retry", job("queued"))
    done = run("retry", ID)
    assert (done.code, done.out.split()[0]) == (0, ID)
    assert f"opensloth watch {ID}" in done.err
    assert sent(api, f"POST /v1/jobs/{ID}/retry") == {"from_checkpoint": False}

    api.on(f"POST /v1/jobs/{ID}/retry", job("failed"))
    api.on(f"GET /v1/jobs/{ID}", job("failed"))
    api.on(f"GET /v1/jobs/{ID}/events", {"data": [], "has_more": False})
    waited = run("retry", ID, "--wait", "--json")
    assert (waited.code, json.loads(waited.out)["state"]) == (1, "failed")


def test_a_refusal_shows_its_hint(api, run):
    api.on(f"POST /v1/jobs/{ID}/resume", problem(409, "stopping", "it is still stopping", hint="resume it later"))
    done = run("resume", ID)
    assert done.code == 1
    assert "resume it later" in done.err


def test_a_deletion_is_asked_for_twice(api, run):
    api.on(f"GET /v1/jobs/{ID}", job("failed"))
    api.on(f"DELETE /v1/jobs/{ID}", {"id": ID, "deleted": True})
    assert run("delete", ID).code == 2
    assert api.seen(f"DELETE /v1/jobs/{ID}") == []
    assert "is gone" in run("delete", ID, "--yes").err


def test_gc_shows_what_would_go(api, run):
    item = {"kind": "orphan", "key": "jobs/ftjob-gone", "bytes": 2048, "job_id": None}
    api.on("POST /v1/gc", {"dry_run": True, "count": 3, "bytes": 4096, "kinds": {"orphan": 4096}, "items": [item]})
    done = run("gc", "--dry-run")
    assert sent(api, "POST /v1/gc") == {"dry_run": True}
    assert "jobs/ftjob-gone" in done.out
    assert "and 2 more" in done.err
    assert "would go" in done.err


def test_a_place_has_to_be_said(api, run):
    assert run("move", ID).code == 2
