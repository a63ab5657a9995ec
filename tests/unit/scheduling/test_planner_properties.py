"""What holds of `plan` in every state: checked over thousands of random ones."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from opensloth.scheduling.planner import plan
from opensloth.scheduling.preemption import may_stop
from opensloth.scheduling.types import Device, Plan, QueuedJob, Rules, Running, Usage
from tests.support.worlds import World, capacity, clean, random_world

SEEDS = st.integers(0, 2**32)
QUEUED, RUNNING = st.integers(0, 25), st.integers(0, 12)
MANY = settings(max_examples=1500, deadline=None)
SOME = settings(max_examples=500, deadline=None)


def planned(world: World) -> Plan:
    return plan(world.queue, world.devices, world.running, world.usage, world.now, world.rules)


def as_running(job: QueuedJob, device_ids: tuple[str, ...], now: float) -> Running:
    memory = None if job.whole else job.memory
    end = now + job.longest_s if job.longest_s < float("inf") else None
    return Running(job.id, device_ids, job.owner, job.team, job.priority, now, memory, end)


def check_device(device: Device, there: list[Running], rules: Rules, asked: dict[str, QueuedJob]) -> None:
    new = [asked[job.job_id] for job in there if job.job_id in asked]
    if not new:
        return
    assert device.usable
    assert all(clean(device, rules) and len(there) == 1 for job in new if job.whole)
    assert len(there) == 1 or all(job.memory is not None for job in there)
    assert len(there) <= rules.max_sharers
    needed = sum(job.memory or 0 for job in there) if len(there) > 1 else new[0].memory or 0
    assert needed <= capacity(device, rules)


@MANY
@given(SEEDS, QUEUED, RUNNING)
def test_no_device_is_over_committed_and_gangs_get_all_their_devices_on_one_host(seed: int, queued: int, running: int):
    world = random_world(seed, queued, running)
    result = planned(world)
    jobs = {job.id: job for job in world.queue}
    host_of = {device.id: device.host_id for device in world.devices}
    there: dict[str, list[Running]] = defaultdict(list)
    for job in world.running:
        for device_id in job.device_ids:
            there[device_id].append(job)
    for placement in result.placements:
        job = jobs[placement.job_id]
        assert len(set(placement.device_ids)) == len(placement.device_ids) == job.devices
        assert {host_of[device_id] for device_id in placement.device_ids} == {placement.host_id}
        assert job.not_before is None or job.not_before <= world.now
        for device_id in placement.device_ids:
            there[device_id].append(as_running(job, placement.device_ids, world.now))
    for device in world.devices:
        check_device(device, there[device.id], world.rules, jobs)
    placed = [placement.job_id for placement in result.placements]
    assert sorted(placed + list(result.waits)) == sorted(jobs) == sorted(result.order)


@MANY
@given(SEEDS, QUEUED, RUNNING)
def test_no_quota_is_broken(seed: int, queued: int, running: int):
    world = random_world(seed, queued, running)
    jobs = {job.id: job for job in world.queue}
    placed = [jobs[placement.job_id] for placement in planned(world).placements]
    for accounts, name_of in ((world.usage.users, "owner"), (world.usage.teams, "team")):
        for name, account in accounts.items():
            new = [job for job in placed if getattr(job, name_of) == name]
            held = sum(len(job.device_ids) for job in world.running if getattr(job, name_of) == name)
            if new:
                assert account.device_s_left is None or account.device_s_left > 0
                assert account.max_devices is None or held + sum(job.devices for job in new) <= account.max_devices


@MANY
@given(SEEDS, QUEUED, RUNNING)
def test_the_order_of_what_is_passed_in_does_not_matter(seed: int, queued: int, running: int):
    world = random_world(seed, queued, running)
    rng = random.Random(seed)
    shuffled = [rng.sample(part, len(part)) for part in (world.queue, world.devices, world.running)]
    mixed = replace(world, queue=shuffled[0], devices=shuffled[1], running=shuffled[2])
    assert planned(mixed) == planned(world)


@MANY
@example(seed=549, queued=20, running=2)  # one stays too long where another is being stopped already
@given(SEEDS, QUEUED, RUNNING)
def test_preemption_goes_downward_only_is_useful_and_stops_nobody_in_vain(seed: int, queued: int, running: int):
    world = random_world(seed, queued, running, quotas=False)
    result = planned(world)
    jobs, active = {job.id: job for job in world.queue}, {job.job_id: job for job in world.running}
    assert len({victim.job_id for victim in result.preemptions}) == len(result.preemptions)
    for winner in {victim.in_favour_of for victim in result.preemptions}:
        job = jobs[winner]
        victims = [active[victim.job_id] for victim in result.preemptions if victim.in_favour_of == winner]
        assert all(may_stop(victim, job, world.now) for victim in victims)
        before = set(result.order[: result.order.index(winner)])
        started = [as_running(jobs[p.job_id], p.device_ids, world.now) for p in result.placements if p.job_id in before]
        staying = [other for other in world.running if other not in victims and not other.stopping] + started
        assert starts_alone(world, job, staying)
        if result.reservation is not None and result.reservation.job_id == winner:
            assert not any(starts_alone(world, job, [*staying, spared]) for spared in victims)


def starts_alone(world: World, job: QueuedJob, running: list[Running]) -> bool:
    """Whether the job would start on one of the hosts that its victims leave, were it alone in the queue."""
    result = plan([job], world.devices, running, Usage(), world.now, world.rules)
    return bool(result.placements)


@SOME
@given(SEEDS, st.integers(2, 20), RUNNING)
def test_backfill_that_keeps_its_time_never_delays_the_head(seed: int, queued: int, running: int):
    world = tidy_world(seed, queued, running)
    first = planned(world)
    if first.reservation is None:
        return
    head, promised = first.reservation.job_id, first.reservation.start
    assert start_of(head, world, random.Random(seed)) <= promised + 1e-6


def tidy_world(seed: int, queued: int, running: int) -> World:
    """One owner and class, so that the head stays the head; ends are kept; none is preempted."""
    world = random_world(seed, queued, running, quotas=False, tidy=True)
    jobs = [replace(job, owner="one", team="one", priority=1, own_rank=0) for job in world.queue]
    active = [replace(job, priority=1) for job in world.running]
    return replace(world, queue=jobs, running=active, usage=Usage())


def start_of(job_id: str, world: World, rng: random.Random) -> float:
    """Plays on: every job ends when it said, or somewhat before."""
    now, queue, active = world.now, list(world.queue), list(world.running)
    truth = {job.job_id: now + (job.expected_end - now) * rng.uniform(0.3, 1.0) for job in active if job.expected_end}
    for _ in range(1000):
        result = plan(queue, world.devices, active, world.usage, now, world.rules)
        jobs = {job.id: job for job in queue}
        for placement in result.placements:
            if placement.job_id == job_id:
                return now
            job = jobs[placement.job_id]
            truth[job.id] = now + job.longest_s * rng.choice((1.0, rng.uniform(0.3, 1.0)))
            active.append(replace(as_running(job, placement.device_ids, now), promised_end=placement.promised_end))
        assert not result.preemptions
        placed = {placement.job_id for placement in result.placements}
        queue = [job for job in queue if job.id not in placed]
        now = min(truth.values())
        active = [job for job in active if truth[job.job_id] > now]
        truth = {job: end for job, end in truth.items() if end > now}
    raise AssertionError("it never started")
