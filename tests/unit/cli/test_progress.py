"""What is drawn of a job: its numbers, in the width there is, and plain text where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from opensloth.cli.formats import ago, clock, duration, number, size
from opensloth.cli.lines import event_line
from opensloth.cli.live import Display, LiveView, TextView, curve, view_for
from opensloth.cli.progress import JobProgress
from opensloth.client import Event, Job
from tests.support.fake_api import event, job


def make(kind, **data):
    return Event(**event(1, kind, **data))


def trained(**metrics):
    progress = JobProgress.of(Job(**job()))
    progress.apply(make("state", **{"from": "starting", "to": "running"}))
    progress.apply(make("phase", phase="training"))
    for step in range(1, 31):
        values = {"loss": 3.0 / step, "tokens_per_second": 1234.5, **metrics}
        progress.apply(make("metrics", step=step, max_steps=60, eta_s=42.0, metrics=values))
    return progress


def drawn(progress, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    console.print(Display(progress))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_live_view_fits_the_terminal(width):
    progress = trained(**{"rewards/margins": 0.25, "rewards/accuracies": 0.75, "eval_loss": 1.0})
    lines = drawn(progress, width).splitlines()
    assert len(lines) <= 4
    assert max(len(line) for line in lines) <= width


def test_the_live_view_shows_step_loss_speed_eta_and_margin():
    text = drawn(trained(**{"rewards/margins": 0.25}), 120)
    for part in ("30/60", "ETA 0:42", "loss 0.1", "1,234 tokens/s", "reward margin 0.25", "training"):
        assert part in text


def test_before_the_first_step_it_says_what_the_trainer_does():
    progress = JobProgress.of(Job(**job()))
    progress.apply(make("state", **{"from": "queued", "to": "starting"}))
    progress.apply(make("phase", phase="loading_model"))
    assert "loading the model" in drawn(progress, 80)


def test_a_resumed_attempt_goes_back_to_its_step():
    progress = trained()
    progress.apply(make("started", step=11, max_steps=60, resumed_step=10))
    assert (progress.step, progress.losses) == (11, [])


def test_text_output_is_lines_without_escapes():
    file = io.StringIO()
    view = view_for(Console(file=file, width=40), JobProgress.of(Job(**job())))
    assert isinstance(view, TextView)
    progress = JobProgress.of(Job(**job()))
    for kind, data in (
        ("state", {"from": "queued", "to": "starting"}),
        ("metrics", {"step": 1, "max_steps": 4, "metrics": {"loss": 2.0}}),
        ("metrics", {"step": 2, "max_steps": 4, "metrics": {"loss": 1.5}}),
        ("metrics", {"step": 4, "max_steps": 4, "metrics": {"loss": 1.0}}),
    ):
        found = make(kind, **data)
        progress.apply(found)
        view.update(progress, found)
    # The second step came too soon after the first to be worth a line; the last always is.
    assert file.getvalue().splitlines() == ["starting", "step 1/4 (25%)  loss 2", "step 4/4 (100%)  loss 1"]


def test_a_terminal_gets_the_live_view(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    view = view_for(console, trained())
    assert isinstance(view, LiveView)
    view.close()


def test_no_color_is_obeyed(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(Display(trained()))
    assert "\x1b[3" not in console.file.getvalue()


def test_data_and_checkpoints_are_told_in_words():
    data = make("data", split="train", rows=100, kept=97, dropped=3, truncated=2, packed_rows=10, tokens=12345)
    assert event_line(data) == (
        "training data: 97 of 100 rows, 3 dropped as too long, 2 truncated, packed into 10, 12,345 tokens"
    )
    saved = make("checkpoint", step=20, bytes=2_000_000, save_s=0.42)
    assert event_line(saved) == "checkpoint at step 20 (2.0 MB, saved in 0.4 s)"


def test_the_small_curve_has_the_shape_of_its_values():
    assert curve([3, 2, 1], 10) == "█▅▁"
    assert curve([1.0] * 5, 3) == "▁▁▁"
    assert len(curve(list(range(1000)), 20)) == 20
    assert curve([float("nan")], 5) == ""


def test_numbers_are_written_for_people():
    assert [size(n) for n in (None, 5, 1500, 98_000_000, 2_500_000_000)] == ["-", "5 B", "1.5 kB", "98.0 MB", "2.5 GB"]
    assert [duration(s) for s in (None, 4.4, 185, 7800, 90_000)] == ["-", "4 s", "3 min 05 s", "2 h 10 min", "1 d 1 h"]
    assert [clock(s) for s in (None, 42, 3800)] == ["-:--", "0:42", "1:03:20"]
    assert [number(v) for v in (0, 2.34567, 5e-6, 12345.6, float("nan"))] == ["0", "2.346", "5.00e-06", "12,346", "nan"]
    assert ago("2020-01-01T00:00:00Z").endswith("d ago")
    assert ago(None) == "-"
