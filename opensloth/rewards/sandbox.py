"""Runs Python that a model wrote against tests, shut off from network, files, processes and secrets of the host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SETUP_LIMIT_S = 20.0
LENGTH = 8
HINT = (
    "the host must allow namespaces: run the worker as root with CAP_SYS_ADMIN, or allow unprivileged user namespaces "
    "(in Docker: `security_opt: [seccomp=unconfined, apparmor=unconfined]`)"
)


class SandboxUnavailable(Exception):
    """This host cannot shut a process off well enough; nothing was run."""


@dataclass(frozen=True)
class Limits:
    """What one run may take."""

    timeout_s: float = 5.0
    """Wall clock, for code and tests together."""
    memory_bytes: int = 256 * 2**20
    """Address space of each process."""
    processes: int = 8
    """Processes and threads at once."""
    disk_bytes: int = 16 * 2**20
    """All of its files, which are in memory."""
    file_bytes: int = 8 * 2**20
    """One file."""
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """`passed[i]` tells whether test i passed; `status` is done, timeout, code_error or died; `detail` says more."""

    status: str
    passed: tuple[bool, ...]
    detail: str = ""
    said: tuple[str, ...] = ()


class CallFailed(Exception):
    """The code could not be loaded (`loads` is false) or its function gave no number; the message says why."""

    def __init__(self, message: str, *, loads: bool) -> None:
        super().__init__(message)
        self.loads = loads


def run_tests(code: str, tests: list[str], limits: Limits, *, setup: str = "") -> Outcome:
    """Run `setup`, `code` and each of `tests` as one module in a process of its own; raises SandboxUnavailable.

    Everything that the code started is gone when this returns, within `limits.timeout_s` and the time to set up.
    """
    return _run([setup, code], tests, limits)


def call(source: str, function: str, arguments: list[Any], limits: Limits) -> float:
    """The number that `function` of `source` returns for `arguments` (JSON); raises CallFailed, SandboxUnavailable.

    Shut off as `run_tests`, but that it can import the packages installed here; `source` can find what it is called
    with in its memory, and is trusted to give its own answer.
    """
    outcome = _run([source], [[function, arguments]], limits, _packages())
    if outcome.status == "code_error":
        raise CallFailed(outcome.detail.removeprefix("code_error "), loads=False)
    if not outcome.said:
        late = outcome.status == "timeout"
        raise CallFailed(f"it took more than {limits.timeout_s:g} s" if late else "its process died", loads=True)
    kind, _, text = outcome.said[0].partition(" ")
    if kind != "value":
        raise CallFailed(text, loads=True)
    return float(text)


def _run(code: list[str], tests: list[Any], limits: Limits, packages: Sequence[str] = ()) -> Outcome:
    command = [_python(), "-I", "-S", "-X", "utf8", *program(), _mount_point()]
    given = b"".join(
        len(part).to_bytes(LENGTH, "big") + part
        for part in (json.dumps(value).encode() for value in ({**asdict(limits), "packages": packages}, code, tests))
    )
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd="/",
        start_new_session=True,
    )
    try:
        output, errors = child.communicate(given, timeout=limits.timeout_s + SETUP_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise SandboxUnavailable(f"the sandbox did not answer within {SETUP_LIMIT_S:g} s beyond its limit") from None
    finally:
        # The first process of the namespace dies with this group, and the kernel ends all others with it.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return _outcome(output, errors, len(tests))


def program() -> list[str]:
    """The inside of the sandbox, as Python's arguments; a bare script has its own, with the text in it."""
    return [str(Path(__file__).with_name("sandbox_main.py"))]


def _outcome(output: bytes, errors: bytes, count: int) -> Outcome:
    try:
        answer = json.loads(output)
    except ValueError:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise SandboxUnavailable(f"the sandbox could not be set up: {last[0][:300]}") from None
    if "unavailable" in answer:
        raise SandboxUnavailable(answer["unavailable"])
    passed = set(answer["passed"])
    return Outcome(
        answer["status"],
        tuple(place in passed for place in range(count)),
        answer.get("detail", ""),
        tuple(answer.get("said", ())),
    )


@lru_cache(maxsize=1)
def _python() -> str:
    return os.path.realpath(sys.executable)


def _packages() -> list[str]:
    """The directories of packages that this process imports from itself: those of its venv, user and system."""
    named = ("site-packages", "dist-packages")
    return [os.path.realpath(path) for path in sys.path if os.path.basename(path) in named]


@lru_cache(maxsize=1)
def _mount_point() -> str:
    """An empty directory, over which each sandbox mounts its own root."""
    path = Path(tempfile.gettempdir()) / f"opensloth-sandbox-{os.geteuid()}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o755)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid():
        return tempfile.mkdtemp(prefix="opensloth-sandbox-")
    return str(path)
