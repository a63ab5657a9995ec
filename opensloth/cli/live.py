"""Two ways to show a job while it runs: a live bar in a terminal, lines of text anywhere else."""

from __future__ import annotations

import itertools
import time
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from opensloth.cli.formats import clock, duration, short
from opensloth.cli.lines import event_line, metric_texts, metrics_line
from opensloth.cli.output import is_unicode, symbol
from opensloth.cli.progress import JobProgress
from opensloth.client import Event

LINE_EVERY_S = 5.0
"""Text output has a line of metrics this often, and one for the last step."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES = {"warning": "yellow", "error": "red"}


class View(Protocol):
    """Shows a job's progress until it is closed."""

    def update(self, progress: JobProgress, event: Event) -> None:
        """Shows an event that `progress` has taken in."""

    def remark(self, text: str) -> None:
        """Shows something that is not of the job, such as a lost connection."""

    def close(self) -> None:
        """Leaves the terminal as it should stay."""


def view_for(console: Console, progress: JobProgress) -> View:
    """The live view in a terminal, text elsewhere."""
    return LiveView(console, progress) if console.is_terminal and not console.is_dumb_terminal else TextView(console)


class TextView:
    """One line for each event, and the numbers every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = float("-inf")

    def update(self, progress: JobProgress, event: Event) -> None:
        """Prints the event, or the numbers if it is time."""
        text = event_line(event)
        if text is not None:
            self.remark(text)
            return
        now = time.monotonic()
        final = progress.max_steps is not None and progress.step >= progress.max_steps
        if event.type == "metrics" and (final or now - self._last >= LINE_EVERY_S):
            self._last = now
            self.remark(metrics_line(progress))

    def remark(self, text: str) -> None:
        """Prints a line at once."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def close(self) -> None:
        """Nothing is left to do."""


class LiveView:
    """Events scroll by above; below stays what runs, its bar and numbers, redrawn in the terminal's width."""

    def __init__(self, console: Console, progress: JobProgress) -> None:
        self._console = console
        self._live = Live(Display(progress), console=console, refresh_per_second=8, transient=True)
        self._live.start()

    def update(self, progress: JobProgress, event: Event) -> None:
        """Prints the event above the bar; the bar draws itself."""
        text = event_line(event)
        if text is not None and event.type != "phase":
            self._print(text, _STYLES.get(event.level))

    def remark(self, text: str) -> None:
        """Prints a line above the bar."""
        self._print(text, "yellow")

    def close(self) -> None:
        """Takes the bar away."""
        self._live.stop()

    def _print(self, text: str, style: str | None) -> None:
        self._live.console.print(Text(f"{symbol('dot')} {text}", style=style or "dim"), soft_wrap=True)


class Display:
    """The part of the screen that is redrawn."""

    def __init__(self, progress: JobProgress) -> None:
        self._progress = progress
        self._spinner = Spinner("dots" if is_unicode() else "line")
        self._began = time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress, width = self._progress, options.max_width
        head = Table.grid(padding=(0, 1))
        doing = Text(progress.doing(), style="bold")
        attempt = f"attempt {progress.attempt}" if progress.attempt > 1 else ""
        name = Text(short(progress.name, max(12, width // 3)), style="cyan")
        waited = Text(duration(time.monotonic() - self._began), style="dim")
        head.add_row(self._spinner, name, doing, Text(attempt, style="yellow"), waited)
        yield head
        if progress.max_steps:
            yield self._bar(width)
            yield self._numbers(width)

    def _bar(self, width: int) -> Table:
        progress = self._progress
        steps = f"{progress.step}/{progress.max_steps}"
        eta = f"ETA {clock(progress.eta_s)}"
        bar_width = max(10, width - len(steps) - len(eta) - 4)
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=progress.max_steps or 1, completed=progress.step, width=bar_width)
        row.add_row(bar, Text(steps), Text(eta, style="cyan"))
        return row

    def _numbers(self, width: int) -> Text:
        line = Text()
        for label, value in metric_texts(self._progress):
            line.append(f"{label} " if label else "", style="dim")
            line.append(f"{value}  ", style="bold" if label else "")
        room = min(30, width - line.cell_len - 1)
        values = self._progress.margins or self._progress.losses
        if room >= 8 and len(values) > 2 and is_unicode():
            line.append(curve(values, room), style="cyan")
        line.truncate(width, overflow="ellipsis")
        return line


def curve(values: list[float], width: int) -> str:
    """The values as a row of at most `width` blocks, each the mean of its share."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [round(index * len(finite) / count) for index in range(count + 1)]
    shares = [finite[low:high] for low, high in itertools.pairwise(edges) if high > low]
    means = [sum(share) / len(share) for share in shares]
    lowest, highest = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (highest - lowest) if highest > lowest else 0.0
    return "".join(_BLOCKS[round((mean - lowest) * scale)] for mean in means)
