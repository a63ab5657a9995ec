"""A real worker process over the settings of a test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from opensloth.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """`celery -A worker.app worker`, started as docker-compose and `opensloth up` start it."""

    def __init__(
        self, settings: Settings, log: Path, inside: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._settings = settings
        self._inside = inside
        self._environment = environment or {}
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the worker in a session of its own."""
        set_values = self._settings.model_dump(mode="json", exclude_none=True)
        environment = {f"OPENSLOTH_{name.upper()}": str(value) for name, value in set_values.items()}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self._inside, sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--loglevel", "INFO"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, **environment, **self._environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the worker process alone."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def stop(self, timeout: float = 90.0) -> None:
        """SIGTERM, and the end of the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout)


@contextlib.contextmanager
def running_worker(
    settings: Settings, folder: Path, inside: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Worker]:
    """A worker that runs, started by the command `inside` if given; killed at the end together with all it left."""
    worker = Worker(settings, folder / "worker.log", inside, environment)
    worker.start()
    try:
        yield worker
    finally:
        if worker.process is not None and worker.process.poll() is None:
            try:
                worker.stop()
            except subprocess.TimeoutExpired:
                worker.kill()
                raise AssertionError(f"the worker did not stop:\n{worker.log.read_text()[-3000:]}") from None


def trainers_of(job_id: str) -> list[psutil.Process]:
    """The live trainer processes of a job."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if any(job_id in part for part in command) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
