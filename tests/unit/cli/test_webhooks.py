"""`opensloth webhooks`: what it sends, and how it says what came back."""

from __future__ import annotations

import json

ENDS = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
ONE = {"id": "webhook_1", "name": "hooks", "url": "https://hooks.example.com/x", "event_types": ENDS, "owner": "mara"}


def sent(api, route):
    return json.loads(api.seen(route)[-1].content)


def test_a_webhook_is_told_every_end_unless_said_otherwise_and_its_secret_alone_is_on_stdout(api, run):
    api.on("POST /v1/webhooks", {**ONE, "signing_secret": "whsec_x"})
    assert run("webhooks", "create", ONE["url"]).out == "whsec_x\n"
    assert sent(api, "POST /v1/webhooks") == {"name": "hooks.example.com", "url": ONE["url"], "event_types": ENDS}
    run("webhooks", "create", ONE["url"], "--name", "n", "--event", ENDS[1], "--event", "opensloth.job.paused")
    assert sent(api, "POST /v1/webhooks")["event_types"] == [ENDS[1], "opensloth.job.paused"]


def test_a_list_says_why_one_is_disabled(api, run):
    off = {**ONE, "id": "webhook_2", "enabled": False, "disabled_reason": "it wants no more"}
    api.on("GET /v1/webhooks", {"data": [ONE, off]})
    shown = run("webhooks", "list").out
    assert "webhook_1" in shown
    assert "disabled: it wants no more" in shown
    assert json.loads(run("webhooks", "list", "--json").out) == [ONE, off]


def test_what_is_changed_is_what_was_typed(api, run):
    api.on("PATCH /v1/webhooks/webhook_1", ONE)
    run("webhooks", "set", "webhook_1", "--disabled")
    assert sent(api, "PATCH /v1/webhooks/webhook_1") == {"enabled": False}
    nothing = run("webhooks", "set", "webhook_1")
    assert (nothing.code, len(api.requests)) == (2, 1)
    api.on("POST /v1/webhooks/webhook_1/rotate_secret", {**ONE, "signing_secret": "whsec_new"})
    assert run("webhooks", "rotate", "webhook_1", "--keep-old").out == "whsec_new\n"
    assert sent(api, "POST /v1/webhooks/webhook_1/rotate_secret") == {"keep_old_secret_active_for_24_hours": True}
    api.on("DELETE /v1/webhooks/webhook_1", {"id": "webhook_1", "deleted": True})
    assert run("webhooks", "delete", "webhook_1").code == 0


def test_a_sample_that_is_not_taken_is_a_failure(api, run):
    api.on("POST /v1/webhooks/webhook_1/test", {"status_code": 204}, {"status_code": 500})
    assert run("webhooks", "test", "webhook_1").code == 0
    failed = run("webhooks", "test", "webhook_1")
    assert failed.code == 1
    assert "status 500" in failed.err


def test_deliveries_say_what_came_of_them(api, run):
    delivery = {"id": "wh_1", "event_type": ENDS[0], "job_id": "ftjob-1", "status": "pending", "attempts": 2}
    error = "the receiver answered with status 500"
    api.on("GET /v1/webhooks/webhook_1/deliveries", {"data": [{**delivery, "last_error": error}]})
    shown = run("webhooks", "deliveries", "webhook_1", "--status", "pending").out
    assert error in shown
    assert "ftjob-1" in shown
    assert api.requests[-1].url.params["status"] == "pending"
