"""The examples of `docs/sharing.md`, played."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from opensloth.scheduling.timeline import timeline
from opensloth.scheduling.traces import TraceJob, box

PAGE = Path(__file__).parents[3] / "docs" / "sharing.md"
EXAMPLE = re.compile(r"```jsonl (\d+) devices\n(.*?)```\n\n```text\n(.*?)\n```", re.DOTALL)
EXAMPLES = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))


def test_every_trace_of_the_page_has_its_outcome():
    assert len(EXAMPLES) == PAGE.read_text(encoding="utf-8").count("```jsonl") >= 5


@pytest.mark.parametrize(("devices", "trace", "outcome"), EXAMPLES)
def test_the_page_says_what_happens(devices: str, trace: str, outcome: str):
    jobs = [TraceJob(**json.loads(line)) for line in trace.splitlines()]
    assert timeline(jobs, box(devices=int(devices))) == outcome
