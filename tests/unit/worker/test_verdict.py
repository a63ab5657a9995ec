"""What exit statuses and records say of an attempt without a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opensloth.jobs.endings import End
from opensloth.jobs.states import StopIntent
from opensloth.storage import Storage
from worker.log_shipper import LogShipper
from worker.records import RecordPump
from worker.verdict import Deaths, no_success

LOST_A_PEER = {"code": "internal_error", "message": "connection closed by peer", "local_rank": 1}
NAN = {"code": "nan_loss", "message": "the loss is NaN", "local_rank": 1}


@pytest.mark.parametrize(
    ("statuses", "intent", "failure", "kind", "code", "words"),
    [
        ([-9], StopIntent.KILL, None, "stopped", None, None),
        ([10, 0], StopIntent.PAUSE, None, "stopped", None, None),
        ([-15], StopIntent.CANCEL, None, "stopped", None, None),
        ([-9], StopIntent.PAUSE, None, "failed", "trainer_killed", "signal 9"),
        ([10], None, None, "failed", "trainer_killed", "exit status 10"),
        ([75], None, None, "lost", "lease_lost", None),
        ([20], StopIntent.PAUSE, NAN, "failed", "nan_loss", "the loss is NaN"),
        ([-9, 20], None, NAN, "failed", "nan_loss", "the loss is NaN"),
        ([-9, 20], None, LOST_A_PEER, "failed", "trainer_killed", "signal 9, exit status 20"),
        ([75, 20], None, LOST_A_PEER, "lost", "lease_lost", None),
        ([0, 20], None, LOST_A_PEER, "failed", "internal_error", "connection closed by peer"),
    ],
)
def test_an_end_without_a_result_is_told_by_who_died_first_and_what_was_said(
    tmp_path: Path,
    statuses: list[int | None],
    intent: StopIntent | None,
    failure: dict[str, Any] | None,
    kind: str,
    code: str | None,
    words: str | None,
) -> None:
    pump = RecordPump(tmp_path / "events.jsonl", "ftjob-1", 1, None)  # type: ignore[arg-type]
    pump.failure = failure
    logs = LogShipper(tmp_path / "trainer.log", Storage(str(tmp_path / "storage")), "log")
    deaths = Deaths()
    # The first to die is seen before those that follow it.
    deaths.note([statuses[0], *[None for _ in statuses[1:]]])
    deaths.note(statuses)
    end = no_success(statuses, intent, deaths, pump, logs, tmp_path)
    assert (end.kind, end.code) == (kind, code or End("stopped").code)
    assert words is None or words in (end.message or "")
