"""`opensloth up` as a person runs it: a process of its own, its output read line by line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


class Up:
    """One `opensloth up`; `home` and `port` are its own unless given."""

    def __init__(self, home: Path, port: int, *options: str, env: dict[str, str] | None = None) -> None:
        self.home = home
        self.port = port
        self.output = home.with_name(f"{home.name}-up-{port}.txt")
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "OPENSLOTH_HOME": str(home), "OPENSLOTH_DEVICES": "cpu:1"}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "opensloth.cli", "up", "--port", str(port), *options],
                cwd=home.parent,
                env=environment | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """Everything it has printed."""
        return self.output.read_text()

    def wait_for(self, text: str, timeout: float = 150.0) -> None:
        """Waits until it has printed `text`."""
        wait_until(
            lambda: text in self.text or self.process.poll() is not None,
            timeout,
            lambda: f"{text!r} is not in:\n{self.text}",
        )
        assert text in self.text, f"{text!r} is not in:\n{self.text}"

    def wait_ended(self, timeout: float = 150.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to `up` alone, as its children are in sessions of their own."""
        self.process.send_signal(signal.SIGINT)

    def parts(self) -> dict[str, psutil.Process]:
        """The parts that run, by name."""
        noted = json.loads((self.home / "up.json").read_text())["parts"]
        return {name: psutil.Process(part["pid"]) for name, part in noted.items()}

    def kill_all(self) -> None:
        """The end of everything, whatever state it is in."""
        try:
            found = list(self.parts().values())
        except (OSError, ValueError, KeyError, psutil.Error):
            found = []
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for part in found:
            try:
                part.kill()
            except psutil.Error:
                continue


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], timeout: float, why: Callable[[], str] = lambda: "") -> None:
    """Returns when the condition holds; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {why()}")
        time.sleep(0.05)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
