"""Records reach the database once, also where a commit was reported failed that had been applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opensloth.errors import Unavailable
from worker.records import RecordPump


class Attempts:
    """Stores records as the service does, and says of the commits in `liars` that they failed."""

    def __init__(self, *liars: int) -> None:
        self.stored: list[dict[str, Any]] = []
        self.read = 0
        self.calls = 0
        self.liars = liars

    def record(self, job_id: str, attempt: int, records: list[dict[str, Any]], start: int, end: int) -> bool:
        self.calls += 1
        if self.read == start:
            self.stored += records
            self.read = end
        if self.calls in self.liars:
            raise Unavailable("the answer to a commit was lost")
        return True


def add(path: Path, *steps: int) -> None:
    with path.open("a") as file:
        for step in steps:
            file.write(json.dumps({"type": "metrics", "data": {"step": step}}) + "\n")


def test_a_commit_that_was_applied_but_reported_failed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path, attempts = tmp_path / "events.jsonl", Attempts(1)
    pump = RecordPump(path, "job", 1, attempts)  # type: ignore[arg-type]
    add(path, 1, 2)
    with pytest.raises(Unavailable):
        pump.pump()
    add(path, 3)
    assert pump.pump()
    add(path, 4)
    assert pump.pump()
    assert [record["data"]["step"] for record in attempts.stored] == [1, 2, 3, 4]
    assert attempts.read == pump.offset == path.stat().st_size
