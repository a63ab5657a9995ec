"""Every kind of secret that a box holds goes through a real run, its faults and a backup, and is found nowhere."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
import redis
from sqlalchemy import MetaData, make_url, select

from opensloth.accounts.callers import Caller
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support import servers
from tests.support.fake_hub import FakeHub, serve_hub
from tests.support.faults import api_process, environment
from tests.support.jobs import ADMIN, body, wait_for, wait_for_state
from tests.support.receivers import receiving
from tests.support.s3 import CREDENTIALS, make_bucket, point_to, s3_server
from tests.support.tiny_model import make_tiny_model
from tests.support.workers import ROOT, running_worker, trainers_of

ENDED = "fine_tuning.job.failed", "fine_tuning.job.succeeded"
OF_THE_STORE = "S3's secret"
ROWS = "rows of another team"


def canary(name: str) -> str:
    return f"canary{secrets.token_hex(8)}{name}"


@pytest.fixture
def planted() -> dict[str, str]:
    """A value of each kind, by what it is."""
    names = ("database", "redis", "environment", "hub", "stale", "wandb", "ours")
    return {name: canary(name) for name in names} | {OF_THE_STORE: CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}


@pytest.fixture
def hub(planted: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    folder = make_tiny_model(tmp_path / "tiny")
    with serve_hub(planted["hub"]) as served:
        served.publish("models/org/tiny", {file.name: file.read_bytes() for file in folder.iterdir()}, gated=True)
        rows = "".join(json.dumps({"prompt": f"Say {n}.", "completion": f"{n}"}) + "\n" for n in range(8)).encode()
        served.publish("datasets/org/rows", {"train.jsonl": rows}, gated=True)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
        yield served


@pytest.fixture
def box(
    settings: Settings, planted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Every address of it has a password; its environment has what is no business of trainers."""
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AZURE_STORAGE_KEY"):
        monkeypatch.setenv(name, planted["environment"])
    with servers.valkey() as plain, s3_server() as s3:
        redis.Redis.from_url(plain).config_set("requirepass", planted["redis"])
        point_to(monkeypatch, s3)
        make_bucket(s3, "team")
        url = make_url(settings.database).set(password=planted["database"]).render_as_string(hide_password=False)
        urls = {
            "database_url": url,
            "redis_url": plain.replace("redis://", f"redis://:{planted['redis']}@"),
            "storage_url": "s3://team/box",
        }
        patient = {"trainer_module": "opensloth.training.main", "lease_s": 60.0, "lease_renew_s": 2.0}
        yield settings.model_copy(update={**urls, **patient, "webhook_allow": "127.0.0.0/8"})


def stored(box: Settings, folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that lies anywhere: rows, objects, what is in Redis, files and what is packed in them."""
    services = Services.make(box)
    metadata = MetaData()
    with services.database.read() as session:
        metadata.reflect(session.connection())
        for table in metadata.sorted_tables:
            rows = [list(row) for row in session.execute(select(table))]
            yield f"table {table.name}", json.dumps(rows, default=str, ensure_ascii=False).encode()
    services.database.engine.dispose()
    bucket = boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).Bucket("team")
    for item in bucket.objects.all():
        yield f"object {item.key}", item.key.encode() + item.get()["Body"].read()
    kept = redis.Redis.from_url(box.redis)
    for key in kept.scan_iter("*"):
        yield f"Redis {key!r}", key + (kept.dump(key) or b"")
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            yield f"file {path}", content
            if content.startswith(b"\x1f\x8b"):
                yield f"file {path}", gzip.decompress(content)


def processes() -> Iterator[tuple[str, bytes]]:
    """The command line of every process, and the environment of trainers and whatever they started."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            command = " ".join(process.cmdline())
            yield f"command line {command[:80]}", command.encode()
            if "opensloth.training" in command:
                yield f"environment of {command[:80]}", Path(f"/proc/{process.pid}/environ").read_bytes()


def answers(url: str, key: str, ids: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """What every route that only reads says to the holder of `key`."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        document = client.get("/openapi.json").json()
        for path, methods in document["paths"].items():
            if "get" in methods and not path.endswith("/content"):
                filled = re.sub(r"{([^}]*)}", lambda name: ids.get(name[1], "x"), path)
                answer = client.get(filled)
                yield f"{path} ({answer.status_code})", answer.content + str(answer.headers.raw).encode()


def found(planted: dict[str, str], places: Iterator[tuple[str, bytes]]) -> set[tuple[str, str]]:
    return {(what, place) for place, content in places for what, value in planted.items() if value.encode() in content}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_secret_is_in_any_log_row_object_event_answer_webhook_backup_or_process(
    box: Settings, planted: dict[str, str], hub: FakeHub, tmp_path: Path
) -> None:
    services = Services.make(box)
    services.teams.create("others", ADMIN, {})
    services.users.create("eve", ADMIN, role="member", team="others", account=None, limits={})
    ann = Caller("ann", "member")
    keys = {name: services.keys.create(name, "member")[1] for name in ("ann", "eve")}
    keys["admin"] = services.keys.create("admin", "admin")[1]
    for name in ("hub", "stale", "wandb"):
        services.secrets.put(name, planted[name], ann)
    services.secrets.put("ours", planted["ours"], ann, team="default")
    planted |= {f"key of {name}": key for name, key in keys.items()}
    planted["key that seals"] = box.secret_key_file.read_text().strip()
    rows = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": canary("rows")}]}
    file_id = services.files.create("own.jsonl", [json.dumps(rows).encode()], ann).id

    def spec(name: str, **more: Any) -> dict[str, Any]:
        made = body(services, "org/rows", name, training_args={"max_steps": 1}, **more)
        made["opensloth_config"]["fast_model_args"]["model_name"] = "org/tiny"
        return made

    with receiving() as receiver, api_process(box, tmp_path) as url:
        hooks = [
            services.webhooks.create(ann, name=path, url=receiver.url(path), event_types=list(ENDED))
            for path in ("hook", "500")
        ]
        planted |= {f"secret of the webhook {row.name}": secret for row, secret in hooks}
        wandb = {"integrations": [{"type": "wandb", "project": "p"}]}
        with running_worker(box, tmp_path) as worker:
            asked = [
                spec("well", secrets={"hub": "hub", "wandb": "wandb"}, **wandb),
                spec("refused", secrets={"hub": "stale"}),
                spec("without"),
            ]
            jobs = [services.jobs.submit(one, ann)[0].id for one in asked]
            wait_for(lambda: trainers_of(jobs[0]), timeout=120)
            seen = found(planted, processes())
            ends = [wait_for_state(services, job, "succeeded", "failed", timeout=400) for job in jobs]
            assert [job.state for job in ends] == ["succeeded", "failed", "failed"], [job.error for job in ends]
            push = {"format": "adapter", "push_to_hub": {"repo": "team/tone", "secret": "stale"}}
            export = services.exports.submit(jobs[0], push, ann)[0].id
            assert wait_for_state(services, export, "succeeded", "failed", timeout=240).state == "failed"
            wait_for(lambda: len(receiver.requests) >= 6, timeout=60)
            ids = {"job_id": jobs[0], "file_id": file_id, "webhook_id": hooks[0][0].id, "name": "hub"}
            for name in ("ann", "admin"):
                seen |= found(planted, answers(url, keys[name], ids))
            seen |= found(planted | {ROWS: rows["messages"][1]["content"]}, answers(url, keys["eve"], ids))
            make = [sys.executable, "-m", "opensloth.backup", "make", str(tmp_path / "backup"), "--with-storage"]
            done = subprocess.run(make, cwd=ROOT, env=environment(box), capture_output=True)
            assert done.returncode == 0, done.stderr
            seen |= found(planted, iter([("output of backup", done.stdout + done.stderr)]))
            seen |= found(planted, stored(box, tmp_path))
            with contextlib.suppress(redis.RedisError):
                redis.Redis.from_url(box.redis).shutdown(nosave=True)
            assert httpx.get(f"{url}/readyz", timeout=30).json()["parts"]["redis"] != "ok"
            wait_for(lambda: "onnection" in worker.log.read_text(), timeout=60)
        told = "".join(request.body + json.dumps(request.headers) for request in receiver.requests)
        seen |= found(planted, iter([("webhooks", told.encode())]))
    assert "HTTP Request" not in (tmp_path / "worker.log").read_text()
    logs = ((f"file {path}", path.read_bytes()) for path in tmp_path.glob("*.log"))
    seen |= found(planted, logs)
    environments = {(OF_THE_STORE, place) for _, place in seen if place.startswith("environment of ")}
    assert environments, "trainers write to the store themselves"
    home = {("key that seals", f"file {box.secret_key_file}")}
    assert seen - environments - home == set()
    services.database.engine.dispose()
