"""What an earlier worker left is gone once it has ended, whoever reaps it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil

from tests.support.jobs import wait_for
from worker.processes import kill_leftovers

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def noted(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    return {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}


def test_ranks_that_nobody_reaps_are_gone_once_they_have_ended() -> None:
    left, lives = (subprocess.Popen(SLEEP, start_new_session=True) for _ in range(2))
    entries = [noted(left), noted(lives)]
    left.kill()
    wait_for(lambda: psutil.Process(left.pid).status() == psutil.STATUS_ZOMBIE)
    assert kill_leftovers(entries) == 1
    assert psutil.Process(lives.pid).status() == psutil.STATUS_ZOMBIE
    assert left.wait() == lives.wait() == -9
