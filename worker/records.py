"""Follows what a trainer writes: its records into the database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opensloth.events.records import finite
from opensloth.jobs.attempts import AttemptService

_BATCH_BYTES = 1 << 20
_MOST_LINE_BYTES = 4 << 20


class RecordPump:
    """Reads `events.jsonl` from where the database has it and keeps what the end of the attempt needs."""

    def __init__(self, path: Path, job_id: str, attempt: int, attempts: AttemptService) -> None:
        self._batch: tuple[list[dict[str, Any]], int] | None = None
        self._path = path
        self._job_id = job_id
        self._attempt = attempt
        self._attempts = attempts
        self._offset = 0
        self.result: dict[str, Any] | None = None
        self.failure: dict[str, Any] | None = None
        self.longest_step_s = 0.0
        self.longest_save_s = 0.0
        self.peak_bytes: int | None = None
        """Most memory by the trainer's own account; on a GPU only what its allocator reserved."""
        self._stepped_s = 0.0
        self._steps = 0
        self._last_step: int | None = None

    def pump(self) -> bool:
        """Store one batch of what was written since the last call; False if the attempt is not ours any more.

        No more than that: a trainer that writes faster than the database takes must not keep the caller for ever.
        """
        # The same batch again where its commit was reported failed: it may have been applied all the same.
        records, end = self._batch = self._batch or self._read()
        if end > self._offset and not self._attempts.record(self._job_id, self._attempt, records, self._offset, end):
            return False
        self._batch = None
        for record in records:
            self._note(record)
        self._offset = end
        return True

    def pump_rest(self) -> bool:
        """Store all that a trainer that is gone has written; False if the attempt is not ours any more."""
        before = -1
        while self._offset != before:
            before = self._offset
            if not self.pump():
                return False
        return True

    @property
    def has_started(self) -> bool:
        """Whether the first step is done."""
        return self._last_step is not None

    @property
    def offset(self) -> int:
        """How far the file has been stored, in bytes."""
        return self._offset

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """The next batch of whole lines and the offset behind it."""
        if not self._path.exists():
            return [], self._offset
        with self._path.open("rb") as file:
            file.seek(self._offset)
            block = file.read(_BATCH_BYTES)
            while block and b"\n" not in block and len(block) < _MOST_LINE_BYTES:
                more = file.read(_BATCH_BYTES)
                if not more:
                    return [], self._offset
                block += more
        whole = block[: block.rfind(b"\n") + 1]
        return [record for line in whole.splitlines() if (record := _parse(line))], self._offset + len(whole)

    def _note(self, record: dict[str, Any]) -> None:
        data = record.get("data") or {}
        match record.get("type"):
            case "result":
                self.result = data
            case "failure":
                self.failure = data
            case "metrics":
                self._measure(data)
            case "started":
                self._last_step = int(data.get("resumed_step") or 0)
            case "checkpoint":
                self.longest_save_s = max(self.longest_save_s, float(data.get("save_s") or 0.0))
            case _:
                pass

    def _measure(self, data: dict[str, Any]) -> None:
        metrics = data.get("metrics") or {}
        step_s, step = metrics.get("step_time_s"), data.get("step")
        if metrics.get("memory_peak_bytes"):
            self.peak_bytes = max(self.peak_bytes or 0, int(metrics["memory_peak_bytes"]))
        if step_s is None:
            return
        self.longest_step_s = max(self.longest_step_s, float(metrics.get("longest_step_s") or step_s))
        if isinstance(step, int):
            steps = max(1, step - (self._last_step or 0))  # the metrics are means since the last ones
            self._stepped_s, self._steps, self._last_step = self._stepped_s + steps * step_s, self._steps + steps, step

    @property
    def step_s(self) -> float | None:
        """Mean seconds of a step; None before the first."""
        return self._stepped_s / self._steps if self._steps else None


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        record = finite(json.loads(line))  # its end is told from here too, and must not be refused for a character
    except ValueError:
        record = None
    if isinstance(record, dict) and isinstance(record.get("data", {}), dict | None):
        return record
    text = line[:500].decode("utf-8", "replace")
    return {"type": "log", "level": "warning", "message": f"a record that cannot be read: {text}"}
