"""A trainer ahead of its job: `python -m opensloth.training.standby MODULE ENGINE DESCRIPTOR`, started by a worker.

It does the slow imports of MODULE for ENGINE, says so on the socket DESCRIPTOR, and waits there for one order: the
folder, environment and secrets of a job. Then it is a rank of that job, and nothing else ever. It leaves when the
worker is gone.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from opensloth.training.secret_values import FD_VARIABLE, SecretValues, secrets_pipe
from opensloth.training.watchdog import EXIT_CODE, start_watchdog

LOG_NAME = "trainer.log"
_NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED of the driver's API."""


def main() -> NoReturn:
    """The command."""
    name, engine, descriptor = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.set_inheritable(descriptor, False)
    start_watchdog()
    before = dict(os.environ)
    guard = SecretValues({})
    guard.guard_output(late=True)
    module = importlib.import_module(name)
    module.warm_up(engine)
    gc.collect()
    gc.freeze()  # what was imported stays for good; each later search for garbage would go through all of it
    with socket.socket(fileno=descriptor) as control:
        say(control, {"ready": True, "cuda": is_cuda_initialized()})
        order = hear(control)
        if order is None:
            os._exit(EXIT_CODE)
        guard.learn(order["secrets"])
        become(order, before)
        say(control, {"taken": True})
        if hear(control) is None:  # another process has its place
            os._exit(EXIT_CODE)
    sys.argv = [name, order["run_dir"]]
    module.main()
    sys.exit(0)


def say(control: socket.socket, message: Mapping[str, Any]) -> None:
    """One message, a line of JSON."""
    control.sendall(json.dumps(message).encode() + b"\n")


def hear(control: socket.socket) -> dict[str, Any] | None:
    """The next message; None at the end."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = control.recv(65536)
        if not chunk:
            return None
        line += chunk
    found: dict[str, Any] = json.loads(line)
    return found


def become(order: Mapping[str, Any], before: Mapping[str, str]) -> None:
    """Take the job's place: its process group, folder, log, environment and secrets.

    `before` is the environment that this process was started with: what differs from it in the order is set, and what
    the imports have set since stays, as it would in a process that is started for the job.
    """
    if order["group"]:
        os.setpgid(0, order["group"])
    own, run_dir = Path.cwd(), Path(order["run_dir"])
    for left in own.iterdir():  # what libraries generate while they are imported, and look for again
        if not (run_dir / left.name).exists():
            shutil.move(left, run_dir / left.name)
    os.chdir(run_dir)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(run_dir / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    shutil.rmtree(own, ignore_errors=True)
    wanted: dict[str, str] = order["environment"]
    for name in before.keys() - wanted.keys():
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in wanted.items() if before.get(name) != value})
    if order["secrets"]:
        os.environ[FD_VARIABLE] = str(secrets_pipe(order["secrets"]))


def is_cuda_initialized() -> bool:
    """Whether this process has spoken to the CUDA driver: from then on the devices that it sees are settled."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != _NOT_INITIALIZED)


if __name__ == "__main__":
    main()
