"""Following one job to its end on the terminal, and what is said of it then."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.text import Text

from opensloth.cli import exit_codes
from opensloth.cli.formats import duration, number, size
from opensloth.cli.live import view_for
from opensloth.cli.output import err, out, print_json_line, say, symbol
from opensloth.cli.progress import JobProgress
from opensloth.client import Client, ClientError, Job


def watch_job(client: Client, job: Job, *, console: Console | None = None) -> Job:
    """Shows the job until it has ended and returns it then.

    Ctrl-C leaves the job running, says so, and raises typer.Exit with 130.
    """
    progress = JobProgress.of(job)
    view = view_for(console or out(), progress)

    def on_drop(problem: ClientError, pause_s: float) -> None:
        view.remark(f"{problem.message} Trying again in {pause_s:.1f} s.")

    try:
        for event in client.jobs.follow(job.id, on_drop=on_drop):
            progress.apply(event)
            view.update(progress, event)
    except KeyboardInterrupt:
        view.close()
        raise left_running(job.id) from None
    finally:
        view.close()
    return client.jobs.get(job.id)


def stream_events(client: Client, job: Job) -> Job:
    """Prints each event as a line of JSON until the job has ended and returns the job then."""
    try:
        for event in client.jobs.follow(job.id):
            print_json_line(event.as_json())
    except KeyboardInterrupt:
        raise left_running(job.id) from None
    return client.jobs.get(job.id)


def wait_silently(client: Client, job: Job) -> Job:
    """Waits for the end of a job without a word and returns it then."""
    try:
        for _ in client.jobs.follow(job.id):
            pass
    except KeyboardInterrupt:
        raise left_running(job.id) from None
    return client.jobs.get(job.id)


def left_running(job_id: str) -> typer.Exit:
    """Says on stderr that the job goes on, and gives the exit to raise."""
    say(f"\n{job_id} goes on.\n  See it again: opensloth watch {job_id}\n  Stop it:      opensloth cancel {job_id}")
    return typer.Exit(exit_codes.INTERRUPTED)


def tell_outcome(job: Job, console: Console | None = None) -> None:
    """Says how a job ended, and what can be done with it."""
    console = console or out()
    in_time = f" in {duration(job.run_s)}" if job.run_s else ""
    if job.state == "succeeded":
        console.print(Text(f"{symbol('ok')} {job.id} succeeded{in_time}{_final(job)}", style="green"), soft_wrap=True)
        _tell_result(console, job)
    elif job.state == "cancelled":
        console.print(Text(f"{job.id} was cancelled{in_time}", style="yellow"), soft_wrap=True)
    else:
        tell_failure(job)


def tell_failure(job: Job) -> None:
    """Says why a job failed, with the end of its log, on stderr."""
    console = err()
    error = job.error
    code = (error.code if error else None) or job.reason or "unknown"
    console.print(Text(f"{symbol('bad')} {job.id} failed: {code}", style="bold red"), soft_wrap=True)
    if error is None:
        return
    if error.message:
        console.print(Text(f"  {error.message}"), soft_wrap=True)
    if error.hint:
        console.print(Text(f"  Hint: {error.hint}"), soft_wrap=True)
    tail = error.log_tail if isinstance(error.log_tail, str) else "\n".join(error.log_tail or [])
    if tail.strip():
        console.print(Text(f"  The end of its log (opensloth logs {job.id} has all):", style="dim"), soft_wrap=True)
        for line in tail.strip().splitlines()[-20:]:
            console.print(Text(f"    {line}", style="dim"), soft_wrap=True)


def _final(job: Job) -> str:
    metrics = job.metrics or {}
    texts = []
    for name, label in (("train_loss", "mean loss"), ("loss", "loss"), ("rewards/margins", "reward margin")):
        value = metrics.get(name)
        if isinstance(value, int | float):
            texts.append(f"{label} {number(float(value))}")
    return f"  {', '.join(texts)}" if texts else ""


def _tell_result(console: Console, job: Job) -> None:
    result = job.result
    if result is None:
        return
    total = sum(artifact.bytes for artifact in result.artifacts)
    name = result.model or job.id
    console.print(Text(f"  Result: {name}, {len(result.artifacts)} files, {size(total)}"), soft_wrap=True)
    console.print(Text(f"  Fetch it: opensloth download {job.id} -o result"), soft_wrap=True)
