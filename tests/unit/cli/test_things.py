"""`opensloth files | models | key | login`."""

from __future__ import annotations

import io
import json

import pytest

from opensloth.remote.credentials import Credentials, credentials_path, read_credentials, write_credentials
from tests.support.fake_api import problem

FILE = {"id": "file-1", "object": "file", "filename": "rows.jsonl", "bytes": 18, "status": "processed", "created_at": 1}


def model(status, **more):
    return {"id": "smollm2-135m", "object": "model", "kind": "base", "status": status, "bytes": 270_000_000, **more}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "hello"}\n')
    return path


def test_uploading_prints_the_id(api, run, rows):
    api.on("POST /v1/files", FILE)
    api.on("GET /v1/files/file-1", FILE)
    assert run("files", "upload", str(rows)).out == "file-1\n"
    assert json.loads(run("files", "upload", str(rows), "--json").out) == [FILE]


def test_a_file_that_cannot_be_used_says_why_and_fails(api, run, rows):
    broken = FILE | {"status": "error", "status_details": "row 1 has no messages"}
    api.on("POST /v1/files", broken)
    api.on("GET /v1/files/file-1", broken)
    done = run("files", "upload", str(rows))
    assert done.code == 1
    assert "row 1 has no messages" in done.err


def test_a_pull_waits_until_the_model_is_ready(api, run, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    api.on("GET /readyz", {"status": "ready"})
    api.on("POST /v1/models", model("importing"))
    api.on("GET /v1/models/smollm2-135m", model("importing"), model("ready"))
    done = run("models", "pull", "smollm2-135m")
    assert done.code == 0
    assert "smollm2-135m is ready (270 MB)" in done.err
    assert json.loads(api.seen("POST /v1/models")[0].content) == {"id": "smollm2-135m"}


def test_a_hub_id_is_registered_under_its_own_name(api, run):
    api.on("GET /readyz", {"status": "ready"})
    api.on("POST /v1/models", model("ready", id="Qwen3-0.6B"))
    run("models", "pull", "Qwen/Qwen3-0.6B")
    assert json.loads(api.seen("POST /v1/models")[0].content) == {"id": "Qwen3-0.6B", "source": "Qwen/Qwen3-0.6B"}


def test_a_hub_id_that_looks_like_a_folder_is_said_to_be_none_and_names_its_secret(api, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    api.on("POST /v1/models", {"id": "ours", "status": "importing", "source": "models/ours"})
    api.on("GET /v1/models/ours", {"id": "ours", "status": "ready", "source": "models/ours", "bytes": 1024})
    told = run("models", "add", "ours", "models/ours", "--secret", "hf").err
    assert "there is no folder of that name here" in told
    assert "ours is ready" in told
    assert json.loads(api.seen("POST /v1/models")[0].content)["secret"] == "hf"


def test_a_dataset_of_the_hub_is_fetched_and_its_file_named(api, run):
    pull = {"id": "pull-1", "dataset": "org/rows[test]", "status": "importing"}
    api.on("POST /v1/pulls", pull)
    api.on("GET /v1/pulls/pull-1", {**pull, "status": "ready", "file": "file-1"})
    api.on("GET /v1/files/file-1", {"id": "file-1", "filename": "rows-test.csv", "bytes": 5, "commit": "ab" * 20})
    done = run("files", "pull", "org/rows[test]", "--secret", "hf")
    assert done.out.strip() == "file-1"
    assert "rows-test.csv" in done.err
    assert json.loads(api.seen("POST /v1/pulls")[0].content) == {"dataset": "org/rows[test]", "secret": "hf"}


def test_a_dataset_that_cannot_be_fetched_is_an_error_that_says_why(api, run):
    failed = {"id": "pull-1", "status": "failed", "reason": "hub_refused", "error": "it is gated"}
    api.on("POST /v1/pulls", failed)
    done = run("files", "pull", "org/rows")
    assert done.code != 0
    assert "it is gated" in done.err


def test_a_failed_pull_says_why(api, run):
    api.on("GET /readyz", {"status": "ready"})
    api.on("POST /v1/models", model("importing"))
    api.on("GET /v1/models/smollm2-135m", model("failed", error="no such package"))
    done = run("models", "pull", "smollm2-135m")
    assert done.code == 1
    assert "no such package" in done.err


def test_a_pull_without_a_server_runs_here(run, monkeypatch):
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr("subprocess.run", lambda command, **_: commands.append(command) or Done())
    assert run("models", "pull", "smollm2-135m").code == 0
    assert [command[3] for command in commands] == ["migrations", "opensloth.models.pull"]
    assert commands[1][4:] == ["smollm2-135m"]


def test_a_pull_that_the_server_refuses_does_not_run_here(api, run, monkeypatch):
    api.on("GET /readyz", {"status": "ready"})
    api.on("POST /v1/models", problem(403, "not_allowed", "only an admin may register base models"))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("ran here"))
    assert run("models", "pull", "smollm2-135m").code == 1


def test_an_alias_says_what_the_name_stands_for(api, run):
    api.on("POST /v1/models", {"id": "gpt-4o-mini", "kind": "alias", "status": "ready", "base": "smollm2-135m"})
    assert "gpt-4o-mini stands for smollm2-135m" in run("models", "alias", "gpt-4o-mini", "smollm2-135m").err
    sent = json.loads(api.seen("POST /v1/models")[0].content)
    assert sent == {"id": "gpt-4o-mini", "alias_of": "smollm2-135m"}


def test_key_shows_the_address_and_key_in_force(api, run):
    assert run("key").out == "http://box:8400\nsk-sloth-test\n"
    for command in (["key", "--json"], ["key", "show", "--json"]):
        assert json.loads(run(*command).out)["api_key"] == "sk-sloth-test"


def test_an_admin_makes_and_revokes_keys(api, run):
    api.on("POST /v1/keys", {"id": "key-1", "owner": "ada", "role": "member", "key": "sk-sloth-new"})
    api.on("DELETE /v1/keys/key-1", {"id": "key-1"})
    made = run("key", "create", "ada")
    assert made.out == "sk-sloth-new\n"
    assert "not shown again" in made.err
    assert run("key", "revoke", "key-1").code == 0


def test_login_tries_the_key_before_it_keeps_it(api, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-typed\n"))
    api.on("GET /v1/me", {"name": "ada", "team": "default", "role": "member"})
    assert run("login", "box:8400/v1").code == 0
    stored = read_credentials(credentials_path())
    assert stored is not None
    assert (stored.base_url, stored.api_key) == ("http://box:8400", "sk-typed")

    monkeypatch.setattr("sys.stdin", io.StringIO("sk-wrong\n"))
    api.on("GET /v1/me", problem(401, "invalid_api_key", "this API key is unknown"))
    assert run("login", "http://box:8400").code == 1
    assert read_credentials(credentials_path()) == stored


def test_login_without_a_key_keeps_the_one_that_is_stored(api, run, monkeypatch):
    stored = Credentials("http://box:8400", "sk-stored")
    write_credentials(credentials_path(), stored)
    api.on("GET /v1/me", {"name": "ada", "team": "default", "role": "member"})
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    done = run("login", "http://box:8400")
    assert done.code == 2
    assert "there is no key" in done.err
    assert read_credentials(credentials_path()) == stored


def test_a_place_that_cannot_be_written_to_is_named(api, run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENSLOTH_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-typed\n"))
    api.on("GET /v1/me", {"name": "ada", "team": "default", "role": "member"})
    done = run("login", "http://box:8400")
    assert done.code == 1
    assert str(tmp_path / "file") in done.err
    assert "Traceback" not in done.err
