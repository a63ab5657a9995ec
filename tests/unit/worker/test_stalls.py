"""What counts as getting on, and for how long a run may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensloth.training.pulse import EVALUATING, SAVING, STEPS, Pulse, read_pulse
from worker import stalls
from worker.stalls import StallWatch


class Clock:
    """Seconds as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stalls.time, "monotonic", made.monotonic)
    return made


def quiet_for(watch: StallWatch, clock: Clock, seconds: int, log_grows: bool = False) -> bool:
    """Whether the watch calls it a stall after so many seconds without a beat."""
    stalled = False
    for second in range(seconds):
        clock.now += 1.0
        stalled = watch.look(0, second if log_grows else 0)
    return stalled


@pytest.mark.parametrize(
    ("doing", "step_s", "limit"),
    [(STEPS, 0.1, 600), (STEPS, 100.0, 2000), (SAVING, 0.1, 3600), (EVALUATING, 0.1, 3600)],
)
def test_a_run_may_be_quiet_as_long_as_what_it_does_allows(
    doing: str, step_s: float, limit: int, tmp_path: Path, clock: Clock
) -> None:
    watch = StallWatch(tmp_path, 600.0)
    Pulse(tmp_path).beat(doing, step_s)
    watch.look(0, 0)
    assert not quiet_for(watch, clock, limit - 5)
    assert quiet_for(watch, clock, 10)
    Pulse(tmp_path).beat(doing, step_s * 1.01)
    assert not quiet_for(watch, clock, 1)


def test_what_libraries_say_is_no_step_but_a_sign_of_loading(tmp_path: Path, clock: Clock) -> None:
    watch = StallWatch(tmp_path, 600.0)
    assert not quiet_for(watch, clock, 8000, log_grows=True)
    Pulse(tmp_path).beat(STEPS, 0.1)
    assert quiet_for(watch, clock, 700, log_grows=True)


def test_a_pause_of_the_whole_machine_is_nobodys_stall(tmp_path: Path, clock: Clock) -> None:
    watch = StallWatch(tmp_path, 600.0)
    Pulse(tmp_path).beat(STEPS, 0.1)
    watch.look(0, 0)
    clock.now += 100_000.0
    assert not watch.look(0, 0)


def test_a_pulse_that_is_not_there_or_half_written_means_starting(tmp_path: Path) -> None:
    assert read_pulse(tmp_path).doing == "starting"
    (tmp_path / "pulse").write_text('{"beats": 1')
    assert read_pulse(tmp_path).doing == "starting"
