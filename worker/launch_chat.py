"""From a placed chat engine to its run folder, and the secrets that its process is told."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, select

from opensloth.chat.engine.spec import TOKEN, ChatRun
from opensloth.devices.inventory import FoundDevice
from opensloth.jobs.attempts import Placed
from opensloth.jobs.chat_engines import ChatEngineRow, announce
from opensloth.jobs.rows import JobRow
from opensloth.jobs.spec import load_job_spec
from opensloth.models.choices import ModelChoice
from opensloth.services import Services
from opensloth.settings import Settings
from worker.launch import CannotStart, fresh_folder, model_path, stored_tree

MAX_ROWS = {"cuda": 64, "cpu": 32}
"""Answers that are made at the same time."""
MAX_WAITING = 256
_LONGEST_GRACE_S = 10.0


def prepare_chat(services: Services, placed: Placed, devices: Sequence[FoundDevice]) -> tuple[ChatRun, dict[str, Any]]:
    """Make the run folder and its `run.json`; also returns what the job shows as resolved.

    Raises CannotStart where the model is gone.
    """
    job, settings = placed.job, services.settings
    spec = job.spec
    choice = ModelChoice(base_id=str(spec["model"]), hub_id=spec.get("hub_id"), storage_key=spec.get("source"))
    if choice.storage_key is None and choice.hub_id is None:
        raise CannotStart("the engine has no model", code="model_not_found")
    run_dir = fresh_folder(services, placed)
    kind = devices[0].kind
    merged = spec.get("adapter")
    run = ChatRun(
        job_id=job.id,
        attempt=placed.attempt,
        device=kind,
        model=model_path(services, choice),
        base_name=choice.base_id,
        adapter=str(stored_tree(services, merged)) if merged else None,
        memory_bytes=placed.memory_bytes,
        run_dir=str(run_dir),
        storage_url=services.storage.url,
        address=own_address(settings),
        context_tokens=settings.chat_context_tokens,
        kv_tokens=int(spec["kv_tokens"]),
        max_rows=MAX_ROWS[kind],
        max_waiting=MAX_WAITING,
        idle_s=settings.chat_idle_s,
        grace_s=min(settings.stop_grace_s / 2, _LONGEST_GRACE_S),
    )
    (run_dir / "run.json").write_text(run.model_dump_json(indent=1))
    with services.database.write() as session:
        announce(session, job.id, placed.attempt, run.address, secrets.token_urlsafe(32))
    return run, {"model": run.base_name, "device": kind, "kv_tokens": run.kv_tokens, "max_rows": run.max_rows}


def chat_secrets(services: Services, job: JobRow, run: ChatRun) -> dict[str, str]:
    """The secret of the engine's clients, and the owner's token for a base on the hub if the job of the model had one.

    Raises NotFound where that secret was deleted since.
    """
    with services.database.read() as session:
        token = session.scalar(select(ChatEngineRow.token).where(ChatEngineRow.job_id == job.id))
        of_job = job.spec.get("of_job")
        trained = session.get(JobRow, of_job) if of_job else None
    if token is None:
        raise CannotStart("another engine was started in its place", code="input_deleted")
    values = {TOKEN: token}
    if trained is not None and trained.kind == "training" and trained.owner == job.owner:
        name = load_job_spec(trained.spec).secrets.hub
        if name is not None and not Path(run.model).is_absolute():
            values["model"] = services.secrets.value(job.owner, name)
    return values


def own_address(settings: Settings) -> str:
    """The address of this host that its engines listen on: as set, or the one from which it reaches the database."""
    if settings.chat_address is not None:
        return settings.chat_address
    host = make_url(settings.database).host
    if not host or host.startswith("/"):
        return "127.0.0.1"  # one host: a file or a socket of it
    for family, kind, _, _, target in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:  # nothing is sent
            try:
                probe.connect(target)
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return "127.0.0.1"
