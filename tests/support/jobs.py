"""Uploads, models and jobs for tests of the service, made through its own services."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from opensloth.accounts.keys import Caller
from opensloth.jobs.views import JobView
from opensloth.models.rows import ModelRow
from opensloth.services import Services

ADMIN = Caller("admin", "admin")


def add_model(services: Services, model_id: str = "tiny") -> str:
    """A base model that is ready; its files are enough for the fake trainer."""
    folder = services.settings.home / f"make-{model_id}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    services.storage.put_tree(folder, f"models/{model_id}", move=True)
    with services.database.write() as session:
        session.add(
            ModelRow(
                id=model_id,
                kind="base",
                status="ready",
                owner="admin",
                source="/made/by/test",
                storage_key=f"models/{model_id}",
                created_at=time.time(),
            )
        )
    return model_id


def add_tiny_model(services: Services) -> None:
    """A base model, `tiny`, with weights that real trainers load."""
    from tests.support.tiny_model import make_tiny_model

    add_model(services)
    services.storage.put_tree(make_tiny_model(services.settings.home / "tiny"), "models/tiny", move=True)


def add_file(services: Services, rows: list[dict[str, Any]] | None = None) -> str:
    """An uploaded SFT file."""
    chats = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"Hello {n}"}] for n in range(4)]
    rows = rows or [{"messages": chat} for chat in chats]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return upload(services, content)


def upload(services: Services, content: bytes, filename: str = "data.jsonl") -> str:
    """Upload bytes as a file; returns its id."""
    spool = services.files.spool(filename)
    try:
        spool.write(content)
        return services.files.store(spool, "fine-tune", ADMIN).id
    finally:
        spool.discard()


def body(services: Services, dataset: str, name: str = "steps=5", **more: Any) -> dict[str, Any]:
    """A small job's body; the fake trainer reads the name."""
    config = {"training_type": "sft", "fast_model_args": {"model_name": "tiny", "max_seq_length": 128}}
    return {"name": name, "dataset": dataset, "opensloth_config": config, **more}


def submit(services: Services, name: str = "steps=5", **more: Any) -> str:
    """Submit a small job; returns its id."""
    with services.database.read() as session:
        known = session.get(ModelRow, "tiny") is not None
    if not known:
        add_model(services)
    return services.jobs.submit(body(services, add_file(services), name, **more), ADMIN)[0].id


def wait_for(condition: Callable[[], Any], timeout: float = 90.0, every: float = 0.02) -> Any:
    """Wait until `condition` gives something true, and return it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {timeout} s")


def wait_for_state(services: Services, job_id: str, *states: str, timeout: float = 90.0) -> JobView:
    """Wait until the job is in one of `states`."""

    def reached() -> JobView | None:
        job = services.jobs.get(job_id, ADMIN)
        return job if job.state in states else None

    try:
        found: JobView = wait_for(reached, timeout)
    except AssertionError:
        raise AssertionError(f"the job never got to {states}: {services.jobs.get(job_id, ADMIN)}") from None
    return found
