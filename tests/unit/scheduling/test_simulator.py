from __future__ import annotations

from pathlib import Path

import pytest

from opensloth.scheduling import traces
from opensloth.scheduling.simulator import jain, simulate, simulate_file
from opensloth.scheduling.traces import TraceJob, box, team_day


def test_a_generated_day_waits_a_quarter_of_fifo_at_equal_fairness_or_better():
    days = [team_day(seed, device_hours=100.0) for seed in range(4)]
    ours = [simulate(day, box(), "opensloth") for day in days]
    fifo = [simulate(day, box(), "fifo") for day in days]
    assert sum(r.wait_mean for r in ours) <= sum(r.wait_mean for r in fifo) / 4
    assert sum(r.fairness for r in ours) >= sum(r.fairness for r in fifo)
    assert sum(r.makespan for r in ours) <= sum(r.makespan for r in fifo)
    assert all(report.never_started == 0 for report in ours)


def test_a_trace_is_read_back_as_it_was_written(tmp_path: Path):
    day = team_day(3, device_hours=20.0)
    traces.write(tmp_path / "day.jsonl", day)
    assert traces.read(tmp_path / "day.jsonl") == day


def test_a_file_is_played_with_each_policy_and_starts_are_compared_with_what_was_said(tmp_path: Path):
    traces.write(tmp_path / "day.jsonl", team_day(1, device_hours=30.0))
    fifo, ours = simulate_file(tmp_path / "day.jsonl")
    assert (fifo.policy, ours.policy, fifo.jobs) == ("fifo", "opensloth", ours.jobs)
    assert fifo.said_right is None
    assert ours.said_right is not None


def test_exact_estimates_and_no_later_arrivals_give_exact_forecasts():
    jobs = [TraceJob(f"j{n}", f"u{n % 3}", 0.0, 600.0 + 7 * n, 1 + n % 4, estimate_s=600.0 + 7 * n) for n in range(30)]
    report = simulate(jobs, box(), expectations=True)
    assert report.said_right == 1.0
    assert report.start_error_p50 == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ('{"id": "a"}', "line 2: .*must be there"),
        ('{"id": "a", "user": "u", "submit_s": 0, "run_s": 0}', "line 2: .*above 0"),
        ('{"id": "a", "user": "u", "submit_s": 0, "run_s": 1, "priority": "top"}', "'top', not one of low"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "ok", "user": "u", "submit_s": 0, "run_s": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        traces.read(path)


def test_jains_index_is_one_for_equals_and_one_nth_for_one_who_has_all():
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_a_job_that_the_box_cannot_hold_is_counted_and_holds_nobody_up():
    jobs = [TraceJob("huge", "u", 0.0, 60.0, devices=9), TraceJob("one", "u", 1.0, 60.0)]
    report = simulate(jobs, box())
    assert (report.never_started, report.wait_max) == (1, 0.0)
