"""Every route x everybody who may come: a route that is not in the table fails the first test."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from api.main import create_app
from opensloth.accounts.audit import AuditService
from opensloth.accounts.callers import HOST, Caller
from opensloth.datasets.rows import DatasetPullRow
from opensloth.devices.rows import DeviceRow, HostRow
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.webhooks.events import EVENT_TYPES
from tests.integration.api.conftest import client_for
from tests.support.jobs import add_model, body

CALLERS = ("anonymous", "scoped", "viewer", "teammate", "stranger", "owner", "admin")
"""Nobody; the owner with a key for nothing but the own keys; three others and the owner of what is asked for; admin."""

Access = dict[str, str]
"""By caller: `ok` (whatever comes of it), `401`, `403`, or `none` (the very 404 of an id that never was)."""


def access(scoped: str, viewer: str, teammate: str, stranger: str, owner: str, admin: str) -> Access:
    return dict(zip(CALLERS, ("401", scoped, viewer, teammate, stranger, owner, admin), strict=True))


OPEN = dict.fromkeys(CALLERS, "ok")
EVERYBODY = access("ok", "ok", "ok", "ok", "ok", "ok")
READ = access("403", "ok", "ok", "ok", "ok", "ok")
"""What is not one thing, and shows each what that one sees."""
TEAM = access("403", "ok", "ok", "none", "ok", "ok")
OWNER = access("403", "403", "403", "none", "ok", "ok")
MAKE = access("403", "403", "ok", "ok", "ok", "ok")
DERIVE = access("403", "403", "ok", "none", "ok", "ok")
"""Makes something of one's own from what the team has."""
ADMIN = access("403", "403", "403", "403", "403", "ok")
OWN_KEYS = access("ok", "ok", "ok", "ok", "ok", "ok")
ONE_OWN_KEY = access("ok", "none", "none", "none", "ok", "ok")
OWN_NAMES = access("403", "403", "none", "none", "ok", "none")
"""Names that everybody has to themselves."""

TABLE: dict[str, Access] = {
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /v1/me": EVERYBODY,
    "GET /v1/files": READ,
    "POST /v1/files": MAKE,
    "GET /v1/files/{file_id}": TEAM,
    "GET /v1/files/{file_id}/check": TEAM,
    "GET /v1/files/{file_id}/preview": TEAM,
    "GET /v1/files/{file_id}/content": TEAM,
    "DELETE /v1/files/{file_id}": OWNER,
    "GET /v1/pulls": READ,
    "POST /v1/pulls": MAKE,
    "GET /v1/pulls/{pull_id}": TEAM,
    "GET /v1/jobs": READ,
    "POST /v1/jobs": MAKE,
    "POST /v1/jobs/estimate": READ,
    "GET /v1/jobs/{job_id}": TEAM,
    "PATCH /v1/jobs/{job_id}": OWNER,
    "DELETE /v1/jobs/{job_id}": OWNER,
    "GET /v1/jobs/{job_id}/script": TEAM,
    "POST /v1/jobs/{job_id}/cancel": OWNER,
    "POST /v1/jobs/{job_id}/pause": OWNER,
    "POST /v1/jobs/{job_id}/resume": OWNER,
    "POST /v1/jobs/{job_id}/move": OWNER,
    "POST /v1/jobs/{job_id}/retry": DERIVE,
    "GET /v1/jobs/{job_id}/events": TEAM,
    "GET /v1/jobs/{job_id}/metrics": TEAM,
    "GET /v1/jobs/{job_id}/logs": TEAM,
    "GET /v1/jobs/{job_id}/checkpoints": TEAM,
    "GET /v1/jobs/{job_id}/artifacts": TEAM,
    "GET /v1/jobs/{job_id}/artifacts/all.zip": TEAM,
    "GET /v1/jobs/{job_id}/artifacts/{name:path}": TEAM,
    "GET /v1/jobs/{job_id}/exports": TEAM,
    "POST /v1/jobs/{job_id}/exports": DERIVE,
    "GET /v1/jobs/{job_id}/evaluations": TEAM,
    "POST /v1/jobs/{job_id}/evaluations": DERIVE,
    "GET /v1/jobs/{job_id}/evaluations/{evaluation_id}": TEAM,
    "GET /v1/jobs/{job_id}/evaluations/{evaluation_id}/rows": TEAM,
    "POST /v1/uploads": MAKE,
    "POST /v1/uploads/{upload_id}/parts": OWNER,
    "POST /v1/uploads/{upload_id}/complete": OWNER,
    "POST /v1/uploads/{upload_id}/cancel": OWNER,
    "POST /v1/fine_tuning/alpha/graders/run": MAKE,
    "POST /v1/fine_tuning/alpha/graders/validate": MAKE,
    "GET /v1/fine_tuning/jobs": READ,
    "POST /v1/fine_tuning/jobs": MAKE,
    "GET /v1/fine_tuning/jobs/{job_id}": TEAM,
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": OWNER,
    "POST /v1/fine_tuning/jobs/{job_id}/pause": OWNER,
    "POST /v1/fine_tuning/jobs/{job_id}/resume": OWNER,
    "GET /v1/fine_tuning/jobs/{job_id}/events": TEAM,
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": TEAM,
    "GET /v1/fine_tuning/checkpoints/{checkpoint}/permissions": READ,
    "POST /v1/fine_tuning/checkpoints/{checkpoint}/permissions": MAKE,
    "DELETE /v1/fine_tuning/checkpoints/{checkpoint}/permissions/{permission_id}": MAKE,
    "POST /v1/leases": MAKE,
    "GET /v1/chat/completions": READ,
    "POST /v1/chat/completions": MAKE,
    "POST /v1/completions": MAKE,
    "GET /v1/queue": READ,
    "GET /v1/usage": READ,
    "GET /v1/devices": READ,
    "GET /v1/devices/{device_id}": READ,
    "POST /v1/devices/{device_id}/drain": ADMIN,
    "POST /v1/devices/{device_id}/undrain": ADMIN,
    "POST /v1/devices/{device_id}/release": ADMIN,
    "GET /v1/models": READ,
    "POST /v1/models": ADMIN,
    "GET /v1/models/{model_id:path}": TEAM,
    "DELETE /v1/models/{model_id:path}": OWNER,
    "GET /v1/rewards": READ,
    "GET /v1/keys": OWN_KEYS,
    "POST /v1/keys": OWN_KEYS,
    "POST /v1/keys/{key_id}/rotate": ONE_OWN_KEY,
    "PATCH /v1/keys/{key_id}": ADMIN,
    "DELETE /v1/keys/{key_id}": ONE_OWN_KEY,
    "GET /v1/secrets": READ,
    "POST /v1/secrets": MAKE,
    "DELETE /v1/secrets/{name}": OWN_NAMES,
    "GET /v1/users": READ,
    "POST /v1/users": ADMIN,
    "GET /v1/users/{name}": TEAM,
    "PATCH /v1/users/{name}": ADMIN,
    "DELETE /v1/users/{name}": ADMIN,
    "GET /v1/teams": READ,
    "POST /v1/teams": ADMIN,
    "GET /v1/teams/{name}": TEAM,
    "PATCH /v1/teams/{name}": ADMIN,
    "DELETE /v1/teams/{name}": ADMIN,
    "GET /v1/audit": READ,
    "POST /v1/gc": ADMIN,
    "GET /v1/webhook_event_types": READ,
    **{
        f"{method} /v1/{path}": access
        for name in ("webhooks", "webhook_endpoints")
        for method, path, access in (
            ("GET", name, READ),
            ("POST", name, MAKE),
            ("GET", f"{name}/{{webhook_id}}", TEAM),
            ("POST", f"{name}/{{webhook_id}}", OWNER),
            ("PATCH", f"{name}/{{webhook_id}}", OWNER),
            ("DELETE", f"{name}/{{webhook_id}}", OWNER),
            ("POST", f"{name}/{{webhook_id}}/rotate_secret", OWNER),
            ("POST", f"{name}/{{webhook_id}}/test", OWNER),
            ("GET", f"{name}/{{webhook_id}}/deliveries", TEAM),
        )
    },
}
BODIES: dict[str, Any] = {
    "PATCH /v1/jobs/{job_id}": {"keep": True},
    "POST /v1/jobs/{job_id}/move": {"to": "front"},
    "POST /v1/jobs/{job_id}/exports": {"format": "merged_16bit"},
    "POST /v1/jobs/{job_id}/evaluations": {"graders": ["code_tests"]},
    "POST /v1/uploads": {"bytes": 1, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"},
    "POST /v1/uploads/{upload_id}/complete": {"part_ids": ["part_none"]},
    "POST /v1/models": {"id": "smollm2-135m"},
    "POST /v1/secrets": {"name": "token", "value": "x"},
    "POST /v1/pulls": {"dataset": "org/rows"},
    "POST /v1/users": {"name": "new-user"},
    "PATCH /v1/users/{name}": {"share": 2},
    "POST /v1/teams": {"name": "new-team"},
    "PATCH /v1/keys/{key_id}": {"requests_per_minute": 6000},
    "PATCH /v1/teams/{name}": {"share": 2},
    "POST /v1/gc": {"dry_run": True},
    **{
        f"{method} /v1/{name}/{{webhook_id}}{rest}": body
        for name in ("webhooks", "webhook_endpoints")
        for method, rest, body in (
            ("POST", "", {"name": "other"}),
            ("PATCH", "", {"name": "other"}),
            ("POST", "/test", {"event_type": EVENT_TYPES[0]}),
        )
    },
}
"""What is sent where an empty body would be refused before anything is looked at."""
CHANGES_NOTHING = {"POST /v1/jobs/estimate", "POST /v1/gc"}
"""As they are sent here; the second is asked for a dry run."""


def routes() -> list[tuple[str, str]]:
    """Method and path of every route that is not FastAPI's own page about the others."""
    found = []
    for entry in create_app().routes:
        router = getattr(entry, "original_router", None)
        for route in router.routes if router is not None else ():
            found += [(method, route.path) for method in route.methods]
    return found


def row_of(method: str, path: str) -> str:
    return f"{'GET' if method == 'HEAD' else method} {path}"


def test_every_route_says_who_may_use_it() -> None:
    missing = sorted({row_of(*route) for route in routes()} - TABLE.keys())
    assert not missing, f"say in TABLE who may use {missing}, and in api/rules.py what part of the service it is"
    assert sorted(TABLE.keys() - {row_of(*route) for route in routes()}) == []


@dataclass
class World:
    """A box of two teams; everything named in `things` belongs to `owner` of the team red."""

    services: Services
    base_url: str
    clients: dict[str, httpx.Client] = field(default_factory=dict)
    things: dict[str, str] = field(default_factory=dict)

    def send(self, who: str, row: str, method: str, path: str) -> httpx.Response:
        sent = {} if method in ("GET", "HEAD", "DELETE") else {"json": BODIES.get(row, {})}
        return self.clients[who].request(method, path, **sent)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_allow": "127.0.0.1"})


@pytest.fixture
def world(services: Services, base_url: str) -> Iterator[World]:
    made = World(services, base_url)
    for team in ("red", "blue"):
        services.teams.create(team, HOST, {})
    people = {"owner": "red", "teammate": "red", "viewer": "red", "stranger": "blue"}
    for name, team in people.items():
        role = "viewer" if name == "viewer" else "member"
        services.users.create(name, HOST, role=role, team=team, account=None, limits={})
        made.clients[name] = client_for(base_url, services.keys.create(name, role)[1])
    made.clients["admin"] = client_for(base_url, services.keys.create("admin", "admin")[1])
    made.clients["anonymous"] = client_for(base_url, None)
    _, key = services.keys.create("owner", scopes=["keys:write"])
    made.clients["scoped"] = client_for(base_url, key)
    owner = Caller("owner", "member", "red")
    add_model(services)
    row = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
    upload = made.clients["owner"].post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", row * 4)}
    )
    file_id = upload.json()["id"]
    job = services.jobs.submit(body(services, file_id), owner)[0]
    with services.database.write() as session:
        now = time.time()
        common = {"owner": "owner", "team": "red", "created_at": now}
        session.add(ModelRow(id="ft:tiny:red", kind="result", status="ready", source=job.id, **common))
        session.add(DatasetPullRow(id="pull-red", source="org/red", status="failed", **common))
        session.add(HostRow(id="box", seen_at=now, facts={}))
        session.flush()
        session.add(DeviceRow(id="cpu-0", host_id="box", kind="cpu", index=0, name="slot", memory_bytes=2**30))
    services.secrets.put("hf", "hf_token", owner)
    webhook = add_webhook(services, owner)
    asked = {"graders": [{"name": "regex", "params": {"pattern": "x"}}], "dataset": file_id}
    evaluation = services.evaluations.submit(job.id, asked, owner)[0]
    upload_id = services.uploads.create(owner, filename="a", purpose="fine-tune", size=1, keep_s=None).id
    # The scoped key is the owner's, so that it is not what makes the difference whose key is asked for.
    spare = services.keys.create("owner", scopes=["keys:read"])[0]
    made.things = {
        "job_id": job.id,
        "file_id": file_id,
        "evaluation_id": evaluation.id,
        "upload_id": upload_id,
        "model_id:path": "ft:tiny:red",
        "checkpoint": "ft:tiny:red:x:0123456789ab:ckpt-step-2",
        "permission_id": "cp_0123456789",
        "pull_id": "pull-red",
        "device_id": "cpu-0",
        "key_id": spare.id,
        "webhook_id": webhook,
        "name:path": "adapter_config.json",
        "/v1/users/{name}": "owner",
        "/v1/teams/{name}": "red",
        "/v1/secrets/{name}": "hf",
    }
    yield made
    for client in made.clients.values():
        client.close()


def filled(path: str, things: dict[str, str]) -> str:
    if path in things:
        return path.replace("{name}", things[path])
    for name, value in things.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, path
    return path


def never_was(path: str, things: dict[str, str]) -> tuple[str, str]:
    """The same path with another id in place of the first that it has, and that id."""
    for name in (path, *things):
        if name in things and (f"{{{name}}}" in path or name == path):
            other = things[name][:-4] + secrets.token_hex(2)
            return filled(path, {**things, name: other}), other
    raise AssertionError(path)


def newest_audit(services: Services) -> int:
    rows, _ = AuditService(services.database).list(HOST, limit=1)
    return rows[0].id if rows else 0


def test_everybody_may_do_what_the_table_says_and_every_change_is_noted(world: World) -> None:
    order = sorted(routes(), key=lambda route: (route[0] == "DELETE", "DELETE" in route[0], route[1]))
    wrong = []
    for method, path in order:
        row = row_of(method, path)
        for who in CALLERS:
            expected = TABLE[row][who]
            before = newest_audit(world.services)
            url = filled(path, world.things)
            answer = world.send(who, row, method, url)
            seen = f"{method} {url} by {who}: {answer.status_code} {answer.text[:200]}"
            assert answer.status_code < 500, seen
            if expected != got(world, who, method, path, answer):
                wrong.append(f"{seen} (expected {expected})")
            changed = answer.is_success and method not in ("GET", "HEAD") and row not in CHANGES_NOTHING
            if changed and newest_audit(world.services) == before:
                wrong.append(f"{seen} is not in the audit log")
            if changed and path.endswith("/rotate"):
                world.things["key_id"] = answer.json()["id"]
            if changed and method == "DELETE" and path == "/v1/keys/{key_id}":
                world.things["key_id"] = world.services.keys.create("owner", scopes=["keys:read"])[0].id
            if changed and path == "/v1/secrets/{name}":
                world.services.secrets.put("hf", "again", Caller("owner", "member", "red"))
            elif changed and method == "DELETE" and "{webhook_id}" in path:
                world.things["webhook_id"] = add_webhook(world.services, Caller("owner", "member", "red"))
            elif changed and method == "DELETE" and TABLE[row] is OWNER:
                break  # there is nothing left for the admin, who comes last
    assert not wrong, "\n".join(wrong)


def add_webhook(services: Services, owner: Caller) -> str:
    return services.webhooks.create(owner, name="n", url="http://127.0.0.1:9/", event_types=[EVENT_TYPES[0]])[0].id


def error_code(answer: httpx.Response) -> str:
    """The code of an error, whether it is a problem of ours or OpenAI's object."""
    body = answer.json()
    return body["code"] if "code" in body else body["error"]["code"]


def got(world: World, who: str, method: str, path: str, answer: httpx.Response) -> str:
    """What an answer amounts to, in the words of the table."""
    if answer.status_code in (401, 403):
        return str(answer.status_code)
    if answer.status_code == 404 and method == "HEAD":
        # It says nothing; what it would have said is what GET says.
        answer, method = world.send(who, row_of("GET", path), "GET", str(answer.url)), "GET"
    if answer.status_code != 404:
        return "ok"
    if error_code(answer) not in ("not_found", "fine_tune_not_found", "model_not_found"):
        return "ok"
    other_url, other = never_was(path, world.things)
    other_answer = world.send(who, row_of(method, path), method, other_url)
    name = next(value for value in world.things.values() if value in str(answer.url) and value in answer.text)
    same = (other_answer.status_code, other_answer.text.replace(other, name)) == (404, answer.text)
    return "none" if same else f"another 404 than of what never was: {other_answer.text[:200]}"
