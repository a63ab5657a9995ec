"""Single decisions of `plan`, each with the state that brings it about."""

from __future__ import annotations

from opensloth.scheduling.planner import plan
from opensloth.scheduling.traces import GIB, box
from opensloth.scheduling.types import Account, Device, QueuedJob, Rules, Running, Usage, Wait

NOW = 10_000.0


def queued(job_id: str, devices: int = 1, **facts: object) -> QueuedJob:
    values: dict[str, object] = {"owner": "ann", "priority": 1, "queued_at": NOW - 10, "expected_s": 600.0} | facts
    return QueuedJob(job_id, devices=devices, **values)  # type: ignore[arg-type]


def running(job_id: str, indices: range, left_s: float = 1000.0, **facts: object) -> Running:
    values: dict[str, object] = {"owner": "ben", "started_at": NOW - 5000, "preemptible_from": NOW - 4000} | facts
    ids = tuple(f"host-0:{index}" for index in indices)
    return Running(job_id, ids, expected_end=NOW + left_s, **values)  # type: ignore[arg-type]


def placed(*args: object) -> list[str]:
    return [placement.job_id for placement in plan(*args).placements]  # type: ignore[arg-type]


def test_an_empty_queue_gives_an_empty_plan():
    result = plan([], box(), [], Usage(), NOW)
    assert (result.placements, result.preemptions, result.reservation, result.waits) == ((), (), None, {})


def test_a_gang_goes_to_the_host_where_it_leaves_the_least():
    devices = [*box(2, 4), *[Device(f"small:{index}", "small", index, 80 * GIB) for index in range(2)]]
    (placement,) = plan([queued("two", 2)], devices, [], Usage(), NOW).placements
    assert placement.host_id == "small"


def test_the_first_blocked_job_says_what_it_waits_for():
    result = plan([queued("four", 4)], box(devices=4), [running("r", range(1), 500.0)], Usage(), NOW)
    assert result.waits["four"] == Wait("devices", 4, 3, NOW + 500.0, "r")
    assert result.reservation is not None
    assert (result.reservation.start, result.reservation.waits_for) == (NOW + 500.0, "r")


def test_a_job_of_unknown_length_does_not_pass_and_one_with_a_time_limit_does():
    queue = [queued("four", 4, queued_at=NOW - 50)]
    active = [running("r", range(3), 700.0)]
    unknown, limited = queued("unknown", expected_s=None), queued("limited", expected_s=None, time_limit_s=699.0)
    assert placed([*queue, unknown], box(devices=4), active, Usage(), NOW) == []
    result = plan([*queue, limited], box(devices=4), active, Usage(), NOW)
    assert [(p.job_id, p.promised_end) for p in result.placements] == [("limited", NOW + 700.0)]


def test_a_job_that_overstays_its_promise_is_stopped_whatever_its_class():
    late = running("late", range(3, 4), priority=2, promised_end=NOW - 1, preemptible_from=NOW + 100)
    result = plan([queued("four", 4)], box(devices=4), [late], Usage(), NOW)
    assert [victim.job_id for victim in result.preemptions] == ["late"]


def test_a_higher_class_stops_the_lowest_class_with_the_fewest_devices_that_has_run_the_shortest():
    active = [
        running("normal", range(1), priority=1),
        running("wide", range(1, 3), priority=0),
        running("old", range(3, 4), priority=0, started_at=NOW - 6000),
        running("young", range(4, 5), priority=0, started_at=NOW - 4100),
        running("fresh", range(5, 6), priority=0, preemptible_from=NOW + 1),
    ]
    result = plan([queued("high", priority=2)], box(devices=6), active, Usage(), NOW)
    assert [(victim.job_id, victim.in_favour_of) for victim in result.preemptions] == [("young", "high")]
    assert result.waits["high"].code == "preempting"


def test_nobody_is_stopped_where_that_does_not_suffice_or_is_not_worth_it():
    high = queued("high", 2, priority=2)
    fixed, low = running("fixed", range(1), priority=2), running("low", range(1, 2), priority=0)
    assert plan([high], box(devices=2), [fixed, low], Usage(), NOW).preemptions == ()
    soon = running("soon", range(2), 100.0, priority=0)
    assert plan([high], box(devices=2), [soon], Usage(), NOW).preemptions == ()


def test_what_is_being_cleared_for_a_job_is_not_given_to_another():
    going = running("going", range(1), priority=0, stopping=True)
    queue = [queued("gang", 2, priority=2), queued("small", priority=0, expected_s=3000.0)]
    result = plan(queue, box(devices=2), [going], Usage(), NOW)
    assert result.placements == ()
    assert result.preemptions == ()


def test_jobs_share_while_memory_and_places_last():
    queue = [queued(f"j{n}", memory=20 * GIB, queued_at=NOW - 10 + n) for n in range(6)]
    assert placed(queue, box(devices=1), [], Usage(), NOW) == ["j0", "j1", "j2"]
    tiny = [queued(f"j{n}", memory=GIB, queued_at=NOW - 10 + n) for n in range(6)]
    assert placed(tiny, box(devices=1), [], Usage(), NOW, Rules(max_sharers=2)) == ["j0", "j1"]


def test_jobs_that_could_share_get_devices_of_their_own_while_there_are_plenty():
    result = plan([queued(f"j{n}", memory=GIB) for n in range(2)], box(devices=4), [], Usage(), NOW)
    assert len({placement.device_ids for placement in result.placements}) == 2


def test_foreign_memory_counts_as_taken():
    device = Device("g", "h", 0, 80 * GIB, foreign=50 * GIB)
    assert placed([queued("fits", memory=20 * GIB)], [device], [], Usage(), NOW) == ["fits"]
    assert placed([queued("large", memory=30 * GIB)], [device], [], Usage(), NOW) == []
    assert placed([queued("whole")], [device], [], Usage(), NOW) == []
    assert placed([queued("alone", memory=GIB, exclusive=True)], [device], [], Usage(), NOW) == []


def test_nothing_starts_on_a_device_out_of_service():
    result = plan([queued("j")], [Device("g", "h", 0, GIB, usable=False)], [], Usage(), NOW)
    assert result.waits["j"].code == "impossible"


def test_who_is_at_the_limit_waits_and_the_others_do_not():
    usage = Usage({"ann": Account(max_devices=1)})
    queue = [queued("ann-1", queued_at=NOW - 30), queued("ann-2", queued_at=NOW - 20), queued("ben-1", owner="ben")]
    result = plan(queue, box(), [], usage, NOW)
    assert [placement.job_id for placement in result.placements] == ["ann-1", "ben-1"]
    assert result.waits["ann-2"].code == "user_quota"


def test_within_a_quota_small_jobs_do_not_pass_the_large_one_for_ever():
    usage = Usage({"ann": Account(max_devices=4)})
    active = [running("r", range(2), 500.0, owner="ann")]
    large, small = queued("large", 4, queued_at=NOW - 90), queued("small", queued_at=NOW - 80)
    assert placed([large, small], box(), active, usage, NOW) == []
    short = queued("short", queued_at=NOW - 70, expected_s=400.0)
    assert placed([large, small, short], box(), active, usage, NOW) == ["short"]


def test_a_used_up_month_stops_new_jobs_alone():
    result = plan([queued("j")], box(), [], Usage({"ann": Account(device_s_left=0.0)}), NOW)
    assert result.waits["j"].code == "device_hours"


def test_who_has_used_less_comes_first_and_shares_weigh():
    queue = [queued("ann-1"), queued("ben-1", owner="ben")]
    used = {"ann": Account(9000.0), "ben": Account(5000.0)}
    assert plan(queue, [], [], Usage(used), NOW).order == ("ben-1", "ann-1")
    weighed = used | {"ann": Account(9000.0, share=4.0)}
    assert plan(queue, [], [], Usage(weighed), NOW).order == ("ann-1", "ben-1")


def test_what_runs_is_charged_before_it_ends():
    queue = [queued("ann-1"), queued("ben-1", owner="ben")]
    assert plan(queue, box(), [running("r", range(8), owner="ann")], Usage(), NOW).order == ("ben-1", "ann-1")


def test_teams_share_first_and_people_share_what_is_their_teams():
    many = [queued(f"m{n}", owner=f"m{n}", team="many") for n in range(4)]
    few = [queued(f"f{n}", owner="f", team="few", queued_at=NOW - 9 + n) for n in range(4)]
    order = plan([*many, *few], [], [], Usage(), NOW).order
    assert [job_id[0] for job_id in order] == ["m", "f", "m", "f", "m", "f", "m", "f"]


def test_the_owner_orders_the_own_jobs_of_one_class():
    queue = [queued("old", queued_at=NOW - 500), queued("wanted", own_rank=-1), queued("high", priority=2)]
    assert plan(queue, [], [], Usage(), NOW).order == ("high", "wanted", "old")


def test_a_retry_waits_for_its_moment():
    result = plan([queued("j", not_before=NOW + 5)], box(), [], Usage(), NOW)
    assert result.waits["j"] == Wait("retry", 1, at=NOW + 5)


def test_a_job_that_is_a_moment_late_lets_nobody_pass_who_waits_for_it():
    late = running("late", range(3), -2.0, started_at=NOW - 36_000)
    head, long = queued("head", 4, queued_at=NOW - 50), queued("long", expected_s=30.0)
    result = plan([head, long], box(devices=4), [late], Usage(), NOW)
    assert result.placements == ()
    assert result.reservation is not None
    assert result.reservation.start == NOW + 5.0


def test_a_job_that_is_an_hour_late_may_take_another():
    late = running("late", range(3), -3600.0, started_at=NOW - 36_000)
    head, short = queued("head", 4, queued_at=NOW - 50), queued("short", expected_s=3000.0)
    result = plan([head, short], box(devices=4), [late], Usage(), NOW)
    assert [(p.job_id, p.promised_end) for p in result.placements] == [("short", NOW + 3600.0)]


def test_engines_take_turns_on_a_device_and_give_way_to_jobs_at_once():
    facts = {"priority": -1, "preemptible_from": NOW - 5, "started_at": NOW - 5}
    first = running("first", range(1), **facts, turn_ends=NOW + 10)
    second = queued("second", priority=0, takes_turns=True)
    assert plan([second], box(devices=1), [first], Usage(), NOW).preemptions == ()
    assert plan([queued("job", priority=0)], box(devices=1), [first], Usage(), NOW).preemptions
    served = running("first", range(1), **facts, turn_ends=NOW)
    assert plan([second], box(devices=1), [served], Usage(), NOW).preemptions
