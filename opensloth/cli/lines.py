"""A job's events as lines of text."""

from __future__ import annotations

from opensloth.cli.formats import clock, number, size
from opensloth.cli.progress import PHASES, JobProgress
from opensloth.client import Event

SPLIT_NAMES = {"train": "training data", "eval": "evaluation data"}


def event_line(event: Event) -> str | None:
    """What an event says to a person; None for those that only move the numbers (`metrics`, `started`)."""
    data = event.data
    if event.type in {"metrics", "started"}:
        return None
    if event.type == "state":
        reason = data.get("reason")
        return f"{data.get('to')}" + (f" ({reason})" if reason else "")
    if event.type == "phase":
        return PHASES.get(str(data.get("phase")), str(data.get("phase")).replace("_", " "))
    if event.type == "data":
        return _data_line(event)
    if event.type == "checkpoint" and "step" in data:
        saved = f"checkpoint at step {data['step']}"
        return (
            f"{saved} ({size(data['bytes'])}, saved in {data.get('save_s', 0):.1f} s)" if data.get("bytes") else saved
        )
    if event.type == "result":
        artifacts = data.get("artifacts") or []
        return f"result stored: {len(artifacts)} files, {size(sum(a.get('bytes', 0) for a in artifacts))}"
    return event.message or event.type


def metrics_line(progress: JobProgress) -> str:
    """The numbers of the latest step: `step 12/60 (20%)  loss 2.13  ...`."""
    total = progress.max_steps
    parts = [f"step {progress.step}/{total} ({(progress.fraction or 0):.0%})" if total else f"step {progress.step}"]
    parts += [f"{label} {text}" if label else text for label, text in metric_texts(progress)]
    if progress.eta_s is not None:
        parts.append(f"ETA {clock(progress.eta_s)}")
    return "  ".join(parts)


def metric_texts(progress: JobProgress) -> list[tuple[str, str]]:
    """The metrics worth a place in one line, as (label, value); a value with a unit has no label."""
    metrics, texts = progress.metrics, []
    if "loss" in metrics:
        texts.append(("loss", number(metrics["loss"])))
    if "rewards/margins" in metrics:
        texts.append(("reward margin", number(metrics["rewards/margins"])))
    if "rewards/accuracies" in metrics:
        texts.append(("preferred", f"{metrics['rewards/accuracies']:.0%}"))
    if "eval_loss" in metrics:
        texts.append(("eval loss", number(metrics["eval_loss"])))
    if "tokens_per_second" in metrics:
        texts.append(("", f"{number(metrics['tokens_per_second'])} tokens/s"))
    return texts


def _data_line(event: Event) -> str:
    data = event.data
    name = SPLIT_NAMES.get(str(data.get("split")), str(data.get("split") or "data"))
    parts = [f"{name}: {data.get('kept', data.get('rows', '?'))} of {data.get('rows', '?')} rows"]
    if data.get("dropped"):
        parts.append(f"{data['dropped']} dropped as too long")
    if data.get("truncated"):
        parts.append(f"{data['truncated']} truncated")
    if data.get("packed_rows"):
        parts.append(f"packed into {data['packed_rows']}")
    if data.get("tokens"):
        parts.append(f"{data['tokens']:,} tokens")
    return ", ".join(parts)
