"""Rank 0's side of a report to Weights & Biases: a process of its own, so that nothing of it holds up the training."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from opensloth.training.secret_values import FD_VARIABLE, SecretValues, secrets_pipe

if TYPE_CHECKING:
    from opensloth.training.records import Records
    from opensloth.training.run_spec import RunSpec

FLUSH_S, STOPPED_FLUSH_S = 10.0, 5.0
"""How long the end of a run waits for its last metrics to arrive; a stop is to be quick, and has a grace."""
END = b"end\n"
"""What the process reads once the run's last record is written; the end of its pipe means the same."""
MODULE = "opensloth.training.wandb_report"


class Report:
    """The process that reports a run; it reads the run's records, as the worker does."""

    def __init__(self, process: subprocess.Popen[bytes], records: Records) -> None:
        self._process = process
        self._records = records

    def finish(self, *, stopped: bool = False) -> None:
        """Let it send what is left, for a short while; never raises."""
        patience_s = STOPPED_FLUSH_S if stopped else FLUSH_S
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(END)
            self._process.stdin.close()
        except OSError:
            pass  # it has left before, and has said why
        try:
            status = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            _warn(self._records, f"the last metrics did not reach it within {patience_s:.0f} s")
            return
        if status != 0:
            _warn(self._records, f"the process that reports ended with exit status {status}")


def start_report(spec: RunSpec, records: Records, secrets: SecretValues) -> Report | None:
    """Start the report that the job asks for; None where it asks for none, or none can be started. Never raises."""
    if spec.wandb is None:
        return None
    key = secrets.get("wandb")
    if key is None:
        _warn(records, "the secret with its key was deleted, or this host cannot read it")
        return None
    try:
        return Report(_start(spec.run_dir, key), records)
    except Exception as error:
        logging.getLogger(__name__).exception("the report did not start")
        _warn(records, f"{type(error).__name__}: {error}")
        return None


def _start(run_dir: str, key: str) -> subprocess.Popen[bytes]:
    """In the process group of the ranks: whatever ends them ends it, and its service follows within half a second."""
    told = secrets_pipe({"wandb": key})
    environment = {name: value for name, value in os.environ.items() if value and name != "WANDB_DISABLED"}
    try:
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, run_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=[told],
            env={**environment, FD_VARIABLE: str(told), "CUDA_VISIBLE_DEVICES": ""},
        )
    finally:
        os.close(told)


def _warn(records: Records, why: str) -> None:
    records.log(f"not everything is reported to Weights & Biases: {why}; training goes on", level="warning")
