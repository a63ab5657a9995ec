"""The Celery app of a worker: `celery -A worker.app worker`; its tasks are wake-ups and carry no work."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

from celery import signals

from opensloth.errors import OpenSlothError
from opensloth.events.publisher import PLAN_QUEUE, celery_app, host_queue, wake_queue
from opensloth.services import Services
from opensloth.settings import get_settings
from worker.host import Host

settings = get_settings()
app = celery_app(settings.redis)
app.conf.update(
    worker_pool="threads",
    worker_concurrency=2,
    task_queues=[wake_queue(PLAN_QUEUE), wake_queue(host_queue(settings.host_id))],
)
_host: Host | None = None


@app.task(name="opensloth.plan", ignore_result=True)  # type: ignore[untyped-decorator]
def plan() -> None:
    """The queue or the devices changed: plan."""
    if _host is not None:
        _host.wake()


@app.task(name="opensloth.look", ignore_result=True)  # type: ignore[untyped-decorator]
def look() -> None:
    """There is a placement or a stop for this host."""
    if _host is not None:
        _host.wake()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _setup_logging(**_: Any) -> None:
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # It tells every address at INFO, also those to which the hub sends a download on, whose signatures open the file.
    logging.getLogger("httpx").setLevel(logging.WARNING)


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _start(**_: Any) -> None:
    """Begin before Celery reaches its broker: jobs run without Redis too."""
    global _host
    _setup_logging()  # Celery's own turn for it comes later
    try:
        _host = Host(Services.make(settings))
        _host.start()
    except OpenSlothError as error:
        print(f"opensloth worker: {error.message}. {error.hint or ''}", file=sys.stderr, flush=True)
        os._exit(1)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _drain(**_: Any) -> None:
    """In a thread of its own: this runs inside a signal handler, and Celery may be waiting for a Redis that is gone."""
    threading.Thread(target=_drain_and_leave, name="drain").start()


def _drain_and_leave() -> None:
    try:
        if _host is not None:
            _host.drain()
    finally:
        logging.shutdown()
        os._exit(0)
