"""A trainer does not outlive its worker, nor its worker's lease."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from opensloth.training.watchdog import leave_at
from tests.support.up_process import is_gone, wait_until

BUSY = """
from opensloth.training.watchdog import start_watchdog
start_watchdog()
print("up", flush=True)
while True:
    pass
"""


@pytest.fixture
def trainer():
    """A busy process with a watchdog, and the worker's end of its pipe."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        pass_fds=[reading],
        env={**os.environ, "OPENSLOTH_HEARTBEAT_FD": str(reading)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(reading)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process, writing
    process.kill()
    process.communicate()


def test_it_leaves_when_the_worker_is_gone(trainer) -> None:
    process, writing = trainer
    os.close(writing)
    assert process.wait(10) == 75
    assert b"the worker is gone" in process.stderr.read()


CHILD = """
import subprocess, sys
from opensloth.training.watchdog import start_watchdog
start_watchdog()
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
while True:
    pass
"""


def test_what_it_started_goes_with_it() -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        pass_fds=[reading],
        env={**os.environ, "OPENSLOTH_HEARTBEAT_FD": str(reading)},
        stdout=subprocess.PIPE,
        process_group=0,
    )
    os.close(reading)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    os.close(writing)
    assert process.wait(60) == 75
    wait_until(lambda: is_gone(child), 60)
    process.stdout.close()


def test_it_leaves_before_the_lease_ends(trainer) -> None:
    process, writing = trainer
    begin = time.monotonic()
    os.write(writing, f"@{begin + 1.5:.3f}\n".encode())
    assert process.wait(10) == 75
    assert 0.9 < time.monotonic() - begin < 1.5
    assert b"has not renewed its lease" in process.stderr.read()
    os.close(writing)


def test_time_that_a_line_has_waited_in_the_pipe_is_no_longer_good() -> None:
    for left in (1e6, 30.0, 0.0, -3.0):
        until = round(time.monotonic() + left, 3)
        assert until - 5 <= leave_at(f"@{until:.3f}".encode()) <= until + 0.001


def test_renewals_keep_it_alive_and_may_come_in_pieces(trainer) -> None:
    process, writing = trainer
    begin = time.monotonic()
    os.write(writing, b"0.9\n")
    for piece in (b"0.", b"9\n0", b".9\n", b"3.0\n"):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        os.write(writing, piece)
    assert process.wait(10) == 75
    assert time.monotonic() - begin > 2.5
    os.close(writing)


def test_run_by_hand_there_is_nothing_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    from opensloth.training.watchdog import start_watchdog

    monkeypatch.delenv("OPENSLOTH_HEARTBEAT_FD", raising=False)
    assert start_watchdog() is None
