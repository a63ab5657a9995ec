from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from opensloth.scheduling.forecast import Expectation, expected_starts
from opensloth.scheduling.planner import plan
from opensloth.scheduling.traces import box
from opensloth.scheduling.types import QueuedJob, Running, Wait
from opensloth.scheduling.words import in_words
from tests.support.worlds import random_world

NOW = 50_000.0


def clock(moment: float) -> str:
    return f"{moment - NOW:.0f}"


def queued(job_id: str, devices: int, expected_s: float, age: float) -> QueuedJob:
    return QueuedJob(job_id, "ann", 1, NOW - age, devices, expected_s=expected_s)


def test_the_queue_is_played_forward_with_the_running_jobs_own_ends():
    active = [Running("r", ("host-0:0",), "ben", "", 1, NOW - 100, None, NOW + 300)]
    queue = [queued("first", 4, 1000.0, 30), queued("second", 2, 500.0, 20), queued("third", 4, 100.0, 10)]
    expected = expected_starts(queue, box(devices=4), active, now=NOW)
    starts = {job_id: round(e.start - NOW) if e.start else None for job_id, e in expected.items()}
    assert starts == {"first": 300, "second": 1300, "third": 1800}
    assert [expected[j].freed_by for j in ("first", "second", "third")] == ["r", "first", "second"]
    assert in_words(queue[0], expected["first"], clock) == "4 GPUs; 3 free; the fourth is expected at 300 from r"
    assert in_words(queue[1], expected["second"], clock) == (
        "2 GPUs; 1 job is before it; it is expected to start at 1300, when first ends"
    )


def test_what_can_start_now_is_expected_now():
    expected = expected_starts([queued("j", 1, 10.0, 1)], box(), [], now=NOW)
    assert expected["j"].start == NOW


def test_only_what_is_near_gets_a_time():
    queue = [queued(f"j{n}", 8, 10.0, 100 - n) for n in range(5)]
    expected = expected_starts(queue, box(), [], now=NOW, ahead=3)
    assert [expected[f"j{n}"].start is None for n in range(5)] == [False, False, False, True, True]
    assert expected["j4"].position == 5


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 15), st.integers(0, 8))
def test_a_forecast_agrees_with_the_plan_on_what_starts_now_and_ends_in_every_state(seed: int, jobs: int, active: int):
    world = random_world(seed, jobs, active)
    expected = expected_starts(world.queue, world.devices, world.running, world.usage, world.now, world.rules)
    result = plan(world.queue, world.devices, world.running, world.usage, world.now, world.rules)
    assert {p.job_id for p in result.placements} == {j for j, e in expected.items() if e.start == world.now}
    assert all(in_words(job, expected[job.id], clock) for job in world.queue)


def words(wait: Wait, devices: int = 2, start: float | None = None) -> str:
    return in_words(queued("j", devices, 1.0, 0), Expectation(3, start, None, wait), clock, "CPU slot")


def test_every_reason_to_wait_has_its_words():
    assert words(Wait("impossible", 2)) == "2 CPU slots on one host, and no host in service can hold that"
    assert words(Wait("device_hours", 1), 1) == "1 CPU slot; this month's device hours are used up"
    until = "1 CPU slot; this month's device hours are used up; the next month begins at 60"
    assert words(Wait("device_hours", 1, at=NOW + 60), 1) == until
    assert words(Wait("user_quota", 2)) == "2 CPU slots; the user's limit of devices at once is reached"
    assert words(Wait("retry", 2, at=NOW + 7)) == "the next try at 7"
    assert words(Wait("turn", 2), start=NOW + 9) == "2 CPU slots; 2 jobs are before it; it is expected to start at 9"
    assert words(Wait("preempting", 2, job_id="low")) == "2 CPU slots; low is being stopped for it"
    assert words(Wait("devices", 2, 0, NOW + 5, "r")) == "2 CPU slots; 0 free; all are expected at 5, the last from r"
    assert words(Wait("devices", 1, 0, NOW + 5, "r"), 1) == "1 CPU slot; 0 free; it is expected at 5 from r"


def test_a_forecast_plays_no_more_rounds_than_it_is_given_and_only_for_whom_it_was_asked():
    queue = [queued(f"j{n}", 8, 10.0, 100 - n) for n in range(6)]
    none = expected_starts(queue, box(), [], now=NOW, rounds=0)
    assert [none[f"j{n}"].start is None for n in range(3)] == [False, True, True]
    asked = expected_starts(queue, box(), [], now=NOW, asked={"j2"})
    assert [asked[f"j{n}"].start is None for n in range(4)] == [False, False, False, True]
