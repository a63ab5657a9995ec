"""Failures outside the trainer end an attempt with a reason that says whether to try again."""

from __future__ import annotations

import pytest

from opensloth.errors import InvalidInput, OpenSlothError, Unavailable
from opensloth.jobs.endings import End
from opensloth.jobs.reasons import reason
from opensloth.storage import StorageCorrupt
from worker import ending
from worker.ending import reason_of, write_end
from worker.launch import CannotStart


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (CannotStart("gone", code="input_deleted"), "input_deleted", False),
        (InvalidInput("lora_args.r does not fit"), "invalid_arguments", False),
        (InvalidInput("no such model", code="model_not_found"), "model_not_found", False),
        (Unavailable("the database is away"), "lease_lost", True),
        (StorageCorrupt("a file is short"), "storage_error", True),
        (OSError(28, "No space left on device"), "storage_error", True),
        (OpenSlothError("odd"), "internal_error", False),
        (KeyError("x"), "internal_error", False),
    ],
)
def test_each_failure_has_its_reason(error: Exception, code: str, retryable: bool) -> None:
    assert reason_of(error) == code
    assert reason(code).retryable is retryable


class Attempts:
    """Answers the writing of an end with each of `answers` in turn."""

    def __init__(self, *answers: Exception | str) -> None:
        self.answers = list(answers)
        self.written: list[End] = []

    def end(self, job_id: str, attempt: int, end: End) -> str:
        self.written.append(end)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_an_end_waits_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending.time, "sleep", lambda _: None)
    attempts = Attempts(Unavailable("away"), Unavailable("away"), "succeeded")
    write_end(attempts, "job", 1, End("succeeded"))  # type: ignore[arg-type]
    assert [end.kind for end in attempts.written] == ["succeeded"] * 3


def test_an_end_that_cannot_be_written_is_an_internal_error_and_not_silence() -> None:
    attempts = Attempts(KeyError("key"), "failed")
    write_end(attempts, "job", 1, End("succeeded"))  # type: ignore[arg-type]
    assert [(end.kind, end.code) for end in attempts.written][1] == ("failed", "internal_error")
