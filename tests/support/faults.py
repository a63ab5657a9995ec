"""What tests of faults share: how the parts are started, and what must hold of a job that came through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from opensloth.devices.rows import DeviceLeaseRow
from opensloth.jobs.rows import JobRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, wait_for, wait_for_state
from tests.support.up_process import free_port
from tests.support.workers import ROOT, trainers_of

BOTH = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


def environment(settings: Settings) -> dict[str, str]:
    """What a part is started with."""
    values = settings.model_dump(mode="json", exclude_none=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **{f"OPENSLOTH_{name.upper()}": str(v) for name, v in values.items()}}


def jobs_there(services: Services) -> int:
    """How many jobs there are."""
    with services.database.read() as session:
        return session.scalar(select(func.count()).select_from(JobRow)) or 0


def went_well(services: Services, job_id: str, steps: int) -> None:
    """The job is done, its metrics are whole, and nothing of it is left behind."""
    job = wait_for_state(services, job_id, "succeeded", "failed", "cancelled", timeout=90)
    assert job.state == "succeeded", job.error
    (series,) = services.jobs.metrics(job_id, ADMIN, ["loss"])
    assert [point["step"] for point in series["points"]] == list(range(1, steps + 1))
    events = services.events.list(job_id, limit=10_000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    moves = [(event.data["from"], event.data["to"]) for event in events if event.type == "state"]
    assert sum(to == "starting" for _, to in moves) == job.attempt
    assert sum(to == "succeeded" for _, to in moves) == 1
    with services.database.read() as session:
        assert not session.scalars(select(DeviceLeaseRow).where(DeviceLeaseRow.job_id == job_id)).all()
    wait_for(lambda: not trainers_of(job_id))


@contextmanager
def api_process(settings: Settings, folder: Path, port: int | None = None) -> Iterator[str]:
    """The API as it is deployed, a process of its own; gives its address."""
    port = port or free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "api.main:app",
        "--port",
        str(port),
        "--timeout-graceful-shutdown",
        "60",
    ]
    with (folder / "api.log").open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(settings), stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or answers(url), timeout=180)
        assert process.poll() is None, (folder / "api.log").read_text()[-3000:]
        yield url
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    """Whether the API is there at all."""
    try:
        return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def refused(answer: httpx.Response) -> bool:
    """A 503 that says what is away and when to come again."""
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0 and bool(answer.json()["hint"])


class Watcher(threading.Thread):
    """Follows the events of a job as a client does: whenever the stream ends it takes it up again where it was."""

    def __init__(self, url: str, job_id: str) -> None:
        super().__init__(daemon=True)
        self._url = f"{url}/v1/jobs/{job_id}/events"
        self.seqs: list[int] = []
        self.streams = 0
        self.start()

    def run(self) -> None:
        """Until the job is over."""
        while not self._follow():
            continue

    def _follow(self) -> bool:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.seqs[-1] if self.seqs else 0)}
        self.streams += 1
        try:
            with httpx.stream("GET", self._url, headers=headers, timeout=60) as answer:
                if answer.status_code == 204:
                    return True
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.seqs.append(json.loads(line[6:])["seq"])
        except httpx.TransportError:
            return False
        return False


def saw_all(watcher: Watcher, services: Services, job_id: str) -> None:
    """A watcher of a job that is over has every event of it, each once and in order."""
    watcher.join(60)
    assert not watcher.is_alive()
    assert watcher.seqs == [event.seq for event in services.events.list(job_id, limit=10_000)]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own that is soon full."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nobody but root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Leave `leave` bytes of free space; returns the file whose removal makes room again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return filler
