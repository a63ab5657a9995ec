"""Every job starts in bounded time if the box can hold it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from opensloth.scheduling.planner import plan
from opensloth.scheduling.replay import Replay, Task
from opensloth.scheduling.traces import box
from opensloth.scheduling.types import QueuedJob, Rules, Usage
from tests.support.worlds import holdable, random_world

HOUR = 3600.0


def ever_allowed(job: QueuedJob, usage: Usage) -> bool:
    """Whether the limits of its user and team could hold the job at all; a submission is refused if not."""
    accounts = [(usage.users, job.owner), (usage.teams, job.team)]
    limits = [names[name].max_devices for names, name in accounts if name in names]
    return all(limit is None or job.devices <= limit for limit in limits)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25))
def test_every_job_that_the_box_can_hold_starts_and_ends_once_nothing_more_comes(seed: int, queued: int):
    world = random_world(seed, queued, 0)
    jobs = [job for job in world.queue if holdable(job, world.devices, world.rules)]
    month = {name: replace(account, device_s_left=None) for name, account in world.usage.users.items()}
    teams = {name: replace(account, device_s_left=None) for name, account in world.usage.teams.items()}
    usage = replace(world.usage, users=month, teams=teams)
    allowed = {job.id for job in jobs if ever_allowed(job, usage)}
    tasks = [Task(replace(job, queued_at=world.now), min(job.longest_s, 5000.0), load=0.5) for job in jobs]
    replay = Replay(plan, world.devices, tasks, rules=world.rules, usage=usage, now=world.now)
    # Each job is stopped by a higher class at most as often as those start; everything after each other, thrice over.
    bound = world.now + 3 * sum(4 * task.run_s + 600 for task in tasks)
    while replay.now <= bound and replay.step():
        pass
    assert {task.job.id for task in tasks if task.ended} == allowed


def stream(owner: str, priority: int, hours: float, every_s: float, run_s: float, devices: int = 1) -> list[Task]:
    return [
        Task(QueuedJob(f"{owner}-{n:05d}", owner, priority, n * every_s, devices, expected_s=run_s), run_s)
        for n in range(int(hours * HOUR / every_s))
    ]


def test_a_stream_of_small_jobs_of_a_higher_class_does_not_hold_a_large_job_back_for_ever():
    large = Task(QueuedJob("large", "ann", 0, 60.0, 8, expected_s=HOUR), HOUR)
    # Two others could fill twice the box for three days.
    others = stream("ben", 2, 72, 450.0, HOUR) + stream("cem", 2, 72, 450.0, HOUR)
    rules = Rules(neglect_s=6 * HOUR, min_run_s=2 * HOUR)
    replay = Replay(plan, box(), [large, *others], rules=rules)
    while not large.starts and replay.step():
        pass
    assert large.starts[0] <= rules.neglect_s + 2 * HOUR


def test_in_one_class_a_large_job_waits_for_its_share_and_not_for_the_others_queue():
    large = Task(QueuedJob("large", "ann", 1, 60.0, 8, expected_s=HOUR), HOUR)
    others = stream("ben", 1, 72, 450.0, HOUR) + stream("cem", 1, 72, 450.0, HOUR)
    replay = Replay(plan, box(), [large, *others], rules=Rules())
    while not large.starts and replay.step():
        pass
    assert large.starts[0] <= 4 * HOUR


def test_a_thousand_jobs_of_one_person_do_not_hold_up_the_first_of_another():
    many = [Task(QueuedJob(f"many-{n:04d}", "ben", 1, 0.0, 1, expected_s=600.0), 600.0) for n in range(1000)]
    one = Task(QueuedJob("one", "ann", 1, 100.0, 1, expected_s=600.0), 600.0)
    replay = Replay(plan, box(), [*many, one], rules=Rules())
    while not one.starts and replay.step():
        pass
    assert one.wait_s <= 600.0
