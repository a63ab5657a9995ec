"""Everything that goes out through Redis, from a thread of its own: losing it delays and loses nothing."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import redis

from opensloth.events.records import EventView

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Queue

log = logging.getLogger(__name__)

STREAM_MAXLEN = 20_000
PLAN_QUEUE = "plan"
_BACKOFF_S = 1.0
_OPTIONS: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}


def stream_key(job_id: str) -> str:
    """The Redis stream of a job; its entries' ids are `<seq>-0`, their field `event` is the event's JSON."""
    return f"opensloth:events:{job_id}"


def host_queue(host_id: str) -> str:
    """The Celery queue that wakes one host."""
    return f"host.{host_id}"


def wake_queue(name: str) -> Queue:
    """The declaration of a queue of wake-ups; sender and worker must agree on it."""
    from kombu import Exchange, Queue

    return Queue(name, Exchange(name), routing_key=name, durable=False)


def redis_client(url: str) -> redis.Redis:
    """A client that gives up after one second."""
    return redis.Redis.from_url(url, **_OPTIONS)


def celery_app(url: str) -> Celery:
    """Celery as it is used here: wake-ups over Redis, JSON only, acknowledged early, no results, quick to give up.

    It is imported here, not above: a third of a second of every start of the API that nobody has to wait for.
    """
    from celery import Celery

    broker = url.replace("unix://", "redis+socket://", 1) if url.startswith("unix://") else url
    app = Celery("opensloth", broker=broker)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={**_OPTIONS, "max_retries": 0, "retry_on_timeout": False},
        redis_socket_timeout=1.0,
        redis_socket_connect_timeout=1.0,
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        task_store_errors_even_if_ignored=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
    )
    return app


class Publisher:
    """A bounded queue and one thread; what does not go out is dropped, and readers find it in the database."""

    def __init__(self, url: str, *, capacity: int = 10_000) -> None:
        self._url = url
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(capacity)
        self._pending_wakes: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._broken_until = 0.0

    def events(self, job_id: str, events: Sequence[EventView]) -> None:
        """Add events to the job's live stream."""
        self._put((job_id, [(event.seq, event.model_dump_json()) for event in events]))

    def wake_planner(self) -> None:
        """Ask any worker to plan."""
        self._wake(PLAN_QUEUE)

    def wake_host(self, host_id: str) -> None:
        """Ask one host to look at its placements and stops."""
        self._wake(host_queue(host_id))

    def _wake(self, target: str) -> None:
        with self._lock:
            if target in self._pending_wakes:
                return
            self._pending_wakes.add(target)
        if not self._put(("", target)):
            with self._lock:
                self._pending_wakes.discard(target)

    def _put(self, item: tuple[str, Any]) -> bool:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
                self._thread.start()
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        client = redis_client(self._url)
        celery = celery_app(self._url)
        while True:
            job_id, content = self._queue.get()
            if not job_id:
                with self._lock:
                    self._pending_wakes.discard(content)
            if time.monotonic() < self._broken_until:
                continue
            try:
                if job_id:
                    self._add(client, job_id, content)
                else:
                    name = "opensloth.plan" if content == PLAN_QUEUE else "opensloth.look"
                    celery.send_task(name, queue=wake_queue(content), retry=False, expires=60, ignore_result=True)
            except Exception as error:  # whatever Redis, kombu or a socket raises: nothing here may reach a caller
                self._broken_until = time.monotonic() + _BACKOFF_S
                log.warning("nothing was published to Redis: %s", error)

    @staticmethod
    def _add(client: redis.Redis, job_id: str, events: list[tuple[int, str]]) -> None:
        pipeline = client.pipeline(transaction=False)
        for seq, encoded in events:
            pipeline.xadd(stream_key(job_id), {"event": encoded}, id=f"{seq}-0", maxlen=STREAM_MAXLEN, approximate=True)
        pipeline.expire(stream_key(job_id), 86_400)
        pipeline.execute(raise_on_error=False)
