"""The process of an export keeps a trainer's protocol: it stops when it is asked to and leaves nothing half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from opensloth.storage import Storage
from tests.support.exports import export_run
from tests.support.jobs import wait_for
from tests.support.tiny_model import make_tiny_model


def start(run_dir: str, **options: Any) -> subprocess.Popen[bytes]:
    log = (Path(run_dir) / "trainer.log").open("wb")
    command = [sys.executable, "-m", "opensloth.training.export_main", run_dir]
    return subprocess.Popen(command, stdout=log, stderr=log, **options)


def records(run_dir: str) -> list[dict[str, Any]]:
    file = Path(run_dir) / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_stop_ends_an_export_at_once_and_leaves_no_result(tmp_path: Path) -> None:
    spec = export_run(tmp_path, make_tiny_model(tmp_path / "model"), None)
    process = start(spec.run_dir)
    wait_for(lambda: records(spec.run_dir), timeout=60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 10
    assert [record["type"] for record in records(spec.run_dir)][-1] == "stopped"
    assert Storage(spec.storage_url).list_tree(spec.artifact_key) is None


def test_an_export_whose_worker_is_gone_leaves(tmp_path: Path) -> None:
    spec = export_run(tmp_path, make_tiny_model(tmp_path / "model"), None)
    read_end, write_end = os.pipe()
    process = start(spec.run_dir, pass_fds=[read_end], env={**os.environ, "OPENSLOTH_HEARTBEAT_FD": str(read_end)})
    os.close(read_end)
    os.close(write_end)
    assert process.wait(60) == 75


def test_a_model_that_is_gone_is_a_failure_with_its_code(tmp_path: Path) -> None:
    spec = export_run(tmp_path, tmp_path / "nowhere", None)
    assert start(spec.run_dir).wait(60) == 20
    (failure,) = [record["data"] for record in records(spec.run_dir) if record["type"] == "failure"]
    assert failure["code"] == "model_not_found"
