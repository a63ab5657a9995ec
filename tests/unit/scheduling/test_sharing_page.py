"""The examples of `docs/sharing.md`, played."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from opensloth.scheduling.forecast import expected_starts
from opensloth.scheduling.planner import plan
from opensloth.scheduling.replay import Replay, Task
from opensloth.scheduling.traces import TraceJob, box
from opensloth.scheduling.types import Account, Rules, Usage
from opensloth.scheduling.words import in_words
from tests.support.timeline import timeline

PAGE = Path(__file__).parents[3] / "docs" / "sharing.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLE = re.compile(
    r"```jsonl (\d+) devices(?:, (\w+) at most (\d+))?\n(.*?)```\n\n```text\n(.*?)\n```"
    r"(?:\n\n```text told after (\d+) minutes\n(.*?)\n```)?",
    re.DOTALL,
)
EXAMPLES = EXAMPLE.findall(TEXT)


def parts(example: tuple[str, ...]):
    devices, user, most, trace, outcome, minutes, told = example
    jobs = [TraceJob(**json.loads(line)) for line in trace.splitlines()]
    usage = Usage({user: Account(max_devices=int(most))}) if user else Usage()
    return jobs, box(devices=int(devices)), usage, outcome, minutes, told


def test_every_trace_of_the_page_has_its_outcome():
    assert len(EXAMPLES) == TEXT.count("```jsonl") >= 6
    assert sum(bool(example[5]) for example in EXAMPLES) == TEXT.count("```text told after") >= 2


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_page_says_what_happens(example):
    jobs, devices, usage, outcome, _, _ = parts(example)
    assert timeline(jobs, devices, usage=usage) == outcome


@pytest.mark.parametrize("example", [example for example in EXAMPLES if example[5]])
def test_the_page_says_what_jobs_are_told(example):
    jobs, devices, usage, _, minutes, told = parts(example)
    now = 60.0 * int(minutes)
    tasks = [Task(job.queued(), job.run_s, job.load, job.eta) for job in jobs if job.submit_s <= now]
    replay = Replay(plan, devices, tasks, rules=Rules(), usage=usage)
    while replay.arrivals and replay.step():
        pass
    queue = [task.job for task in replay.queue.values()]
    found = expected_starts(queue, devices, replay.running(), replay.accounts(), replay.now, Rules())
    words = [f"{job.id}: {in_words(job, found[job.id], lambda moment: f'{moment / 60:.0f}')}" for job in queue]
    assert set(told.splitlines()) <= set(words)
