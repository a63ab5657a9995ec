"""Redis flushed, full or hanging while jobs run and clients watch: nothing is lost, nobody waits for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import Watcher, saw_all, went_well
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.servers import started_valkey
from tests.support.workers import running_worker

LONG = {"lease_s": 60.0, "host_timeout_s": 60.0}
"""A loaded machine must not lose a lease here."""
SLOW = [pytest.param("flushed", marks=pytest.mark.slow), pytest.param("full", marks=pytest.mark.slow)]


class Redis:
    """A server of one's own that may be ill."""

    def __init__(self) -> None:
        self._server = started_valkey()
        self.url = f"redis://127.0.0.1:{self._server.port}/0"
        self._client = redis.Redis.from_url(self.url)
        self._pid = int(self._client.info("server")["process_id"])

    def harm(self, how: str) -> None:
        """What goes wrong."""
        if how == "flushed":
            self._client.flushall()
        elif how == "full":
            self._client.config_set("maxmemory-policy", "noeviction")
            self._client.config_set("maxmemory", "1")
        else:
            os.kill(self._pid, signal.SIGSTOP)

    def heal(self) -> None:
        """It is well again."""
        os.kill(self._pid, signal.SIGCONT)
        self._client.config_set("maxmemory", "0")

    def stop(self) -> None:
        """The end of it."""
        os.kill(self._pid, signal.SIGCONT)
        self._server.stop()


@pytest.fixture
def ill() -> Iterator[Redis]:
    server = Redis()
    yield server
    server.stop()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", [*SLOW, "hanging"])
def test_jobs_run_and_watchers_miss_nothing_whatever_redis_does(
    settings: Settings, ill: Redis, tmp_path: Path, how: str
) -> None:
    settings = settings.model_copy(update={**LONG, "redis_url": ill.url, "auth": "off"})
    services = Services.make(settings)
    with serve(settings) as url, running_worker(settings, tmp_path) as worker:
        first = submit(services, "steps=80 step_s=0.05 save=20")
        watcher = Watcher(url, first)
        wait_for(lambda: len(watcher.seqs) > 5, timeout=60)
        ill.harm(how)
        # Each answer comes before a client that waits as long as Redis's own timeouts twice over would leave.
        second = submit(services, "steps=10")
        spec = services.jobs.get(second, ADMIN).spec
        third = httpx.post(f"{url}/v1/jobs", json=spec, timeout=10).json()["id"]
        assert httpx.get(f"{url}/v1/jobs/{third}", timeout=10).status_code == 200
        assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        if how == "flushed":
            ill.harm(how)
        for job_id, steps in ((first, 80), (second, 10), (third, 10)):
            went_well(services, job_id, steps)
            assert services.jobs.get(job_id, ADMIN).attempt == 1
        saw_all(watcher, services, first)
        if how == "hanging":
            worker.stop(60)
            return
        ill.heal()
        went_well(services, submit(services, "steps=5"), 5)
    services.database.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", ["flushed", "full", "hanging"])
def test_a_worker_is_woken_again_once_redis_is_well(settings: Settings, ill: Redis, tmp_path: Path, how: str) -> None:
    # It looks by itself so rarely that nothing would start in time without being woken.
    settings = settings.model_copy(update={**LONG, "redis_url": ill.url, "poll_s": 300.0})
    services = Services.make(settings)
    with running_worker(settings, tmp_path):
        wait_for_state(services, submit(services, "steps=5"), "succeeded", timeout=60)
        ill.harm(how)
        lost = submit(services, "steps=5")
        ill.heal()

        def woken() -> bool:
            services.publisher.wake_planner()
            return services.jobs.get(lost, ADMIN).state in ("starting", "running", "succeeded")

        wait_for(woken, timeout=90, every=0.5)
        wait_for_state(services, submit(services, "steps=5"), "succeeded", timeout=60)
    services.database.engine.dispose()
