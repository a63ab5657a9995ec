"""A trace that is wrong is refused with the line, the field and what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opensloth.scheduling.traces import read, team_day, write

GOOD = {"id": "a", "user": "ann", "submit_s": 0, "run_s": 60}


def test_a_trace_that_was_written_is_read_again(tmp_path: Path) -> None:
    day = team_day()
    write(tmp_path / "day.jsonl", day)
    assert read(tmp_path / "day.jsonl") == day


def test_fields_that_other_programs_add_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps({**GOOD, "queue": "gpu", "memory_gib": None}))
    assert read(path)[0].id == "a"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x", "line 2: it is not JSON"),
        ("[]", "line 2: a job is an object with id, user, submit_s, run_s"),
        ({"id": "b"}, "line 2: user, submit_s, run_s must be there"),
        ({**GOOD, "run_s": "1h"}, "line 2: run_s is '1h', not a number"),
        ({**GOOD, "run_s": 0}, "run_s above 0"),
        ({**GOOD, "submit_s": -1}, "submit_s is -1; it must be finite and not below 0"),
        ({**GOOD, "estimate_s": float("nan")}, "estimate_s is nan; it must be finite"),
        ({**GOOD, "devices": 1.5}, "devices is 1.5, not a whole number"),
        ({**GOOD, "devices": True}, "devices is True, not a whole number"),
        ({**GOOD, "devices": 0}, "devices must be at least 1"),
        ({**GOOD, "exclusive": 1}, "exclusive is 1, not true or false"),
        ({**GOOD, "user": None}, "user is None, not a text"),
        ({**GOOD, "priority": "now"}, "priority is 'now', not one of low, normal, high, urgent"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path: Path, line: Any, said: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line if isinstance(line, str) else json.dumps(line)}\n")
    with pytest.raises(ValueError, match="line 2") as refused:
        read(path)
    assert said in str(refused.value)
