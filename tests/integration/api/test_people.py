"""People over HTTP: another team's ids in every field, streams that end with the key, and servers without keys."""

from __future__ import annotations

import anyio
import httpx
import pytest

from api.main import create_app
from api.streaming import guard
from opensloth.accounts.callers import HOST, Caller
from opensloth.datasets.rows import DatasetPullRow
from opensloth.errors import InvalidInput
from opensloth.events.records import Record
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.integration.api.conftest import client_for
from tests.support.http_server import serve
from tests.support.jobs import add_model, body

OWNER = Caller("owner", "member", "red")
ROW = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


@pytest.fixture
def teams(services: Services) -> tuple[str, str]:
    """Two teams, red with a file and a job; gives their ids."""
    for team, name in (("red", "owner"), ("blue", "stranger")):
        services.teams.create(team, HOST, {})
        services.users.create(name, HOST, role="member", team=team, account=None, limits={})
    add_model(services)
    file_id = services.files.create("rows.jsonl", [ROW] * 4, OWNER).id
    return file_id, services.jobs.submit(body(services, file_id), OWNER)[0].id


def test_ids_of_another_team_are_unknown_in_every_field(
    base_url: str, services: Services, teams: tuple[str, str]
) -> None:
    file_id, job_id = teams
    own = services.files.create("own.jsonl", [ROW] * 4, Caller("stranger", "member", "blue")).id
    others = ["ft:tiny:red", "pull-red", "hf-of-red"]
    services.secrets.put("hf-of-red", "hf_token", OWNER, "red")
    with services.database.write() as session:
        common = {"owner": "owner", "team": "red", "created_at": 1.0}
        session.add(ModelRow(id="ft:tiny:red", kind="result", status="ready", source=job_id, **common))
        session.add(DatasetPullRow(id="pull-red", source="org/red", status="failed", **common))
    good = body(services, own)
    config = good["opensloth_config"]
    tries = {
        "dataset": {**good, "dataset": file_id},
        "eval_dataset": {**good, "eval_dataset": file_id},
        "depends_on": {**good, "depends_on": [job_id]},
        "model_name": {**good, "opensloth_config": {**config, "fast_model_args": {"model_name": job_id}}},
        "pretrained_lora": {**good, "opensloth_config": {**config, "pretrained_lora": job_id}},
        "result": {**good, "opensloth_config": {**config, "fast_model_args": {"model_name": "ft:tiny:red"}}},
    }
    with client_for(base_url, services.keys.create("stranger")[1]) as stranger:
        for field, wrong in tries.items():
            for route in ("/v1/jobs", "/v1/jobs/estimate"):
                answer = stranger.post(route, json=wrong)
                assert answer.status_code == 422, (field, route, answer.text)
                assert "there is no" in answer.text, (field, route, answer.text)
        for part in ("jobs", "files", "queue", "models", "pulls", "devices", "usage", "audit", "secrets", "keys"):
            shown = stranger.get(f"/v1/{part}").text
            assert not [name for name in (job_id, file_id, *others) if name in shown], (part, shown)
        assert stranger.get(f"/v1/jobs?after={job_id}").status_code == 422
        assert stranger.get(f"/v1/files?after={file_id}").status_code == 400
        assert stranger.get("/v1/jobs?owner=owner").json()["data"] == []
        assert stranger.get("/v1/users?team=red").json()["data"] == []
        assert stranger.get("/v1/audit?actor=owner").json()["data"] == []
        preview = stranger.get(f"/v1/files/{own}/preview", params={"eval_file": file_id})
        assert preview.status_code == 404
        assert stranger.get(f"/v1/files/{own}/preview", params={"model": job_id}).status_code == 400
        assert stranger.post("/v1/jobs", json=good).status_code == 201


def test_a_stream_ends_when_its_user_is_disabled(
    base_url: str, services: Services, teams: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "ASK_EVERY_S", 0.0)
    services.keys.create("root", "admin")
    _, job_id = teams

    def say(text: str) -> None:
        with services.database.write() as session:
            services.events.append(session, job_id, 0, [Record(type="log", message=text)])

    with client_for(base_url, services.keys.create("owner")[1]) as client:
        headers = {"Accept": "text/event-stream"}
        with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
            lines = stream.iter_lines()
            assert any("is queued" in line for line in lines)
            say("seen by the owner")
            assert any("seen by the owner" in line for line in lines)
            services.users.update("owner", HOST, {"disabled": True})
            say("not for the owner")
            assert not any("not for the owner" in line for line in lines)
        assert client.get(f"/v1/jobs/{job_id}").status_code == 401


def test_a_key_tells_who_it_is_and_what_is_left(base_url: str, services: Services, teams: tuple[str, str]) -> None:
    services.users.update("owner", HOST, {"max_queued": 7})
    row, key = services.keys.create("owner", scopes=["jobs:read"], expires_in_s=600)
    with client_for(base_url, key) as client:
        me = client.get("/v1/me").json()
    assert (me["name"], me["team"], me["role"], me["scopes"]) == ("owner", "red", "member", ["jobs:read"])
    assert (me["key"]["id"], me["key"]["key"]) == (row.id, None)
    assert (me["user"]["may_have"]["max_queued"], me["user"]["has"]["queued"]) == (7, 1)
    assert me["its_team"]["name"] == "red"


def test_bad_wishes_name_the_field(base_url: str, services: Services) -> None:
    with client_for(base_url, services.keys.create("root", "admin")[1]) as admin:
        for path, wish, field in (
            ("/v1/users", {"name": "a b"}, "name"),
            ("/v1/users", {"name": "ada", "team": "none"}, "team"),
            ("/v1/users", {"name": "ada", "role": "king"}, "role"),
            ("/v1/users", {"name": "ada", "account": "Root; rm"}, "account"),
            ("/v1/users", {"name": "ada", "max_devices": -1}, "max_devices"),
            ("/v1/users", {"name": "ada", "share": 0}, "share"),
            ("/v1/teams", {"name": "../x"}, "name"),
            ("/v1/teams", {"name": "x", "max_bytes": 1.5}, "max_bytes"),
            ("/v1/keys", {"owner": "ada", "scopes": ["all"]}, "scopes"),
            ("/v1/secrets", {"name": "hf", "value": "x", "team": "none"}, "team"),
        ):
            answer = admin.post(path, json=wish)
            assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, field), answer.text
        assert admin.patch("/v1/users/root", json={"role": "viewer"}).json()["code"] == "last_admin"
        assert admin.patch("/v1/users/root", json={"role": None}).status_code == 422
        assert admin.patch("/v1/users/root", json={}).status_code == 422


def test_without_keys_this_machine_alone_is_let_in(settings: Settings, services: Services) -> None:
    keyless = settings.model_copy(update={"auth": "off"})
    with serve(keyless) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/me").json()["name"] == "admin"
        for headers in (
            {"Host": "box.example.org"},
            {"X-Forwarded-For": "127.0.0.1"},
            {"X-Forwarded-For": "10.1.2.3"},
            {"Forwarded": "for=127.0.0.1"},
            {"Origin": "https://example.org"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            answer = client.post("/v1/files", headers=headers, content=b"x")
            assert (answer.status_code, answer.json()["code"]) == (403, "loopback_only"), headers


def test_without_keys_another_address_is_not_listened_on(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"auth": "off", "host": "0.0.0.0"}))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pytest.fail("it started")

    with pytest.raises(InvalidInput, match="without authentication"):
        anyio.run(start)
