"""What the supervisor keeps of a trainer's records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from worker.records import RecordPump


class Sink:
    def record(self, *_: object) -> bool:
        return True


def pumped(path: Path, *records: tuple[str, dict[str, Any]]) -> RecordPump:
    path.write_text("".join(json.dumps({"type": kind, "data": data}) + "\n" for kind, data in records))
    pump = RecordPump(path, "ftjob-1", 1, Sink())  # type: ignore[arg-type]
    assert pump.pump()
    return pump


def metrics(step: int, step_s: float, peak: int = 0) -> tuple[str, dict[str, Any]]:
    return "metrics", {"step": step, "metrics": {"step_time_s": step_s, "memory_peak_bytes": peak}}


def test_the_mean_of_a_step_counts_each_step_once(tmp_path: Path) -> None:
    pump = pumped(tmp_path / "e", ("started", {"resumed_step": 100}), metrics(110, 1.0, 5), metrics(140, 3.0, 9))
    assert pump.step_s == (10 * 1.0 + 30 * 3.0) / 40
    assert pump.longest_step_s == 3.0
    assert pump.peak_bytes == 9


def test_before_the_first_step_nothing_is_known(tmp_path: Path) -> None:
    pump = pumped(tmp_path / "e", ("phase", {"phase": "loading_model"}), ("metrics", {"metrics": {"eval_loss": 1.0}}))
    assert (pump.step_s, pump.peak_bytes) == (None, None)


def test_a_trainer_that_writes_faster_than_the_database_takes_does_not_keep_its_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "e"

    class Slow:
        """While it stores a record the trainer writes the next."""

        stored = 0

        def record(self, job_id: str, attempt: int, records: list[dict[str, Any]], start: int, end: int) -> bool:
            self.stored += len(records)
            if self.stored < 100:
                with path.open("a") as file:
                    file.write(json.dumps({"type": "log"}) + "\n")
            return True

    path.write_text(json.dumps({"type": "log"}) + "\n")
    slow = Slow()
    pump = RecordPump(path, "ftjob-1", 1, slow)  # type: ignore[arg-type]
    assert pump.pump()
    assert slow.stored == 1
    assert pump.pump_rest()
    assert slow.stored == 100


def test_what_no_database_takes_is_taken_out_before_the_end_is_told(tmp_path: Path) -> None:
    told = {"code": "dataset_error", "message": "row 3: \ud83d\0!", "loss": float("nan")}
    pump = pumped(tmp_path / "e", ("failure", told))
    assert pump.failure == {"code": "dataset_error", "message": "row 3: ?!", "loss": None}
