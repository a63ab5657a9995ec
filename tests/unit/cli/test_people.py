"""What the command sends about people, and how it says what came back."""

from __future__ import annotations

import json

import pytest

USER = {
    "name": "mara",
    "role": "member",
    "team": "vision",
    "share": 1.0,
    "max_devices": 4,
    "max_bytes": 500_000_000_000,
}


def sent(api, route):
    return json.loads(api.seen(route)[-1].content)


def test_users_are_listed_with_their_limits(api, run):
    api.on("GET /v1/users", {"data": [USER, {"name": "eve", "role": "viewer", "team": "default", "disabled": True}]})
    shown = run("users").out
    assert "mara" in shown
    assert "500 GB" in shown
    assert "viewer (disabled)" in shown
    assert json.loads(run("users", "--json").out)[0] == USER


def test_what_is_typed_becomes_the_fields_of_the_server(api, run):
    api.on("POST /v1/users", USER)
    api.on("PATCH /v1/users/mara", USER)
    api.on("POST /v1/teams", {"name": "vision"})
    api.on("PATCH /v1/teams/vision", {"name": "vision"})
    run("users", "create", "mara", "--team", "vision", "--max-devices", "4", "--max-bytes", "500GB")
    assert sent(api, "POST /v1/users") == {"name": "mara", "team": "vision", "max_devices": 4, "max_bytes": 500 * 10**9}
    run("users", "set", "mara", "--disabled", "--max-devices", "none", "--account", "none", "--role", "viewer")
    assert sent(api, "PATCH /v1/users/mara") == {
        "role": "viewer", "account": None, "disabled": True, "max_devices": None,
    }  # fmt: skip
    run("teams", "create", "vision", "--share", "2", "--device-hours", "200", "--max-bytes", "2TiB")
    assert sent(api, "POST /v1/teams") == {
        "name": "vision", "share": 2.0, "device_hours": 200.0, "max_bytes": 2 * 2**40,
    }  # fmt: skip
    run("teams", "set", "vision", "--max-queued", "50")
    assert sent(api, "PATCH /v1/teams/vision") == {"max_queued": 50}


@pytest.mark.parametrize("wrong", [("--max-devices", "many"), ("--max-bytes", "5 apples"), ("--device-hours", "-1")])
def test_a_quantity_that_is_none_is_refused_before_anything_is_sent(api, run, wrong):
    done = run("users", "set", "mara", *wrong)
    assert done.code == 2
    assert not api.requests


@pytest.mark.parametrize("command", [("users", "set", "mara"), ("teams", "set", "vision")])
def test_a_change_of_nothing_is_refused_before_anything_is_sent(api, run, command):
    done = run(*command)
    assert done.code == 2
    assert "say what to change" in done.err
    assert not api.requests


def test_keys_have_scopes_and_an_end_and_are_rotated(api, run):
    api.on("POST /v1/keys", {"id": "key-1", "owner": "ci", "role": "member", "key": "sk-sloth-new"})
    run("key", "create", "ci", "--scope", "jobs:write", "--scope", "files:read", "--expires", "90d")
    assert sent(api, "POST /v1/keys") == {
        "owner": "ci", "role": "member", "scopes": ["jobs:write", "files:read"], "expires_in_s": 90 * 86400,
    }  # fmt: skip
    api.on("GET /v1/me", {"name": "ci", "team": "default", "role": "member", "key": {"id": "key-9"}})
    api.on("POST /v1/keys/key-1/rotate", {"id": "key-2", "key": "sk-sloth-newer"})
    done = run("key", "rotate", "key-1", "--overlap", "1d")
    assert done.out == "sk-sloth-newer\n"
    assert sent(api, "POST /v1/keys/key-1/rotate") == {"overlap_s": 86400}


def test_me_shows_use_beside_limits(api, run):
    standing = {"has": {"devices": 2, "queued": 1, "device_hours": 3.25, "bytes": 98_000_000}, "may_have": {}}
    limited = {**standing, "may_have": {"max_devices": 4, "device_hours": 200.0}}
    who = {"name": "mara", "team": "vision", "role": "member", "scopes": ["jobs:write"]}
    api.on("GET /v1/me", {**who, "user": limited, "its_team": standing})
    shown = run("me").out
    for text in ("mara, member of the team vision", "jobs:write", "2 of 4", "3.2 of 200", "98.0 MB"):
        assert text in shown


def test_the_audit_log_is_filtered_by_the_server(api, run):
    entry = {"id": "7", "actor": "mara", "action": "job.cancel", "object_id": "ftjob-1", "data": {"save": True}}
    api.on("GET /v1/audit", {"data": [entry], "has_more": False})
    shown = run("audit", "--actor", "mara", "--to", "ftjob-1").out
    assert "job.cancel" in shown
    assert dict(api.seen("GET /v1/audit")[-1].url.params) == {"actor": "mara", "object_id": "ftjob-1", "limit": "20"}


def test_a_secret_of_the_team_is_named_as_one(api, run, monkeypatch):
    import io

    api.on("POST /v1/secrets", {"name": "hf", "team": "vision"})
    api.on("DELETE /v1/secrets/hf", {"name": "hf"})
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_x\n"))
    run("secrets", "set", "hf", "--team", "vision")
    assert sent(api, "POST /v1/secrets") == {"name": "hf", "value": "hf_x", "team": "vision"}
    run("secrets", "delete", "hf", "--team", "vision")
    assert dict(api.seen("DELETE /v1/secrets/hf")[-1].url.params) == {"team": "vision"}


def test_up_does_not_open_a_server_without_keys_to_others(run, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENSLOTH_AUTH", "off")
    done = run("up", "--home", str(tmp_path / "home"), "--host", "0.0.0.0")
    assert done.code == 1
    assert "without authentication" in done.err
    assert not (tmp_path / "home").exists()


def test_requests_are_limited_for_a_key_a_user_and_a_team(api, run):
    api.on("PATCH /v1/keys/key-1", {"id": "key-1", "requests_per_minute": 60}, {"id": "key-1"})
    api.on("PATCH /v1/users/mara", USER)
    assert "60 requests a minute" in run("key", "set", "key-1", "--requests-per-minute", "60").err
    assert "what its user may" in run("key", "set", "key-1", "--requests-per-minute", "none").err
    bodies = [json.loads(request.content) for request in api.seen("PATCH /v1/keys/key-1")]
    assert bodies == [{"requests_per_minute": 60}, {"requests_per_minute": None}]
    run("users", "set", "mara", "--requests-per-minute", "600")
    assert sent(api, "PATCH /v1/users/mara") == {"requests_per_minute": 600}
