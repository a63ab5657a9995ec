"""The state machine of a job as data: one enum, one table; the diagram in the docs is made from it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StopIntent(StrEnum):
    """Why a job is being stopped; a stronger one replaces a weaker one, never the reverse."""

    KILL = "kill"
    """Cancel without saving."""
    CANCEL = "cancel"
    TIME_LIMIT = "time_limit"
    PAUSE = "pause"
    PREEMPT = "preempt"
    DRAIN = "drain"


STRENGTH = {
    StopIntent.KILL: 5,
    StopIntent.CANCEL: 4,
    StopIntent.TIME_LIMIT: 3,
    StopIntent.PAUSE: 2,
    StopIntent.PREEMPT: 1,
    StopIntent.DRAIN: 1,
}

ENDS_IN = {
    StopIntent.KILL: State.CANCELLED,
    StopIntent.CANCEL: State.CANCELLED,
    StopIntent.TIME_LIMIT: State.FAILED,
    StopIntent.PAUSE: State.PAUSED,
    StopIntent.PREEMPT: State.QUEUED,
    StopIntent.DRAIN: State.QUEUED,
}
"""Where a stopping job goes once its processes are gone."""

TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
LIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})
"""States in which an attempt holds devices and may have processes."""

TRANSITIONS: dict[tuple[State, State], str] = {
    (State.WAITING, State.QUEUED): "what it depends on succeeded, and its datasets are here",
    (State.WAITING, State.FAILED): "what it depends on failed, or a dataset cannot be fetched",
    (State.WAITING, State.CANCELLED): "cancel was asked, or what it depends on was cancelled",
    (State.QUEUED, State.STARTING): "placed: devices leased",
    (State.QUEUED, State.FAILED): "an input was deleted, or no host can ever hold it",
    (State.QUEUED, State.CANCELLED): "cancel was asked",
    (State.QUEUED, State.PAUSED): "pause was asked",
    (State.PAUSED, State.QUEUED): "resume was asked",
    (State.PAUSED, State.FAILED): "an input was deleted, or no host can ever hold it",
    (State.PAUSED, State.CANCELLED): "cancel was asked",
    (State.STARTING, State.RUNNING): "the first optimizer step was done, or an export's first unit of work",
    (State.STARTING, State.STOPPING): "cancel, pause, preempt, drain or time limit",
    (State.RUNNING, State.STOPPING): "cancel, pause, preempt, drain or time limit",
    (State.STOPPING, State.SUCCEEDED): "the work was complete before the stop took effect",
    (State.STOPPING, State.CANCELLED): "the processes are gone (cancel)",
    (State.STOPPING, State.PAUSED): "the processes are gone (pause)",
    (State.STOPPING, State.QUEUED): "the processes are gone (preempt, drain)",
    (State.STOPPING, State.FAILED): "the processes are gone (time limit)",
    (State.STARTING, State.QUEUED): "lease lost or a retryable failure, retries left",
    (State.RUNNING, State.QUEUED): "lease lost or a retryable failure, retries left",
    (State.STARTING, State.SUCCEEDED): "the trainer ended",
    (State.RUNNING, State.SUCCEEDED): "the trainer ended",
    (State.STARTING, State.FAILED): "not retryable, or no retries left",
    (State.RUNNING, State.FAILED): "not retryable, or no retries left",
}
"""Every allowed transition and when it happens; what is not here is refused."""


def is_allowed(source: State, target: State) -> bool:
    """Whether a job may go from `source` to `target`."""
    return (source, target) in TRANSITIONS


def strengthens(new: StopIntent, old: StopIntent | None) -> bool:
    """Whether a stop that is under way for `old` has to become one for `new`."""
    return old is None or STRENGTH[new] > STRENGTH[old]


def mermaid() -> str:
    """The state machine as a Mermaid diagram."""
    lines = [
        "stateDiagram-v2",
        "    [*] --> queued: accepted",
        "    [*] --> waiting: accepted, needs another job or a dataset of the hub",
    ]
    lines += [f"    {source} --> {target}: {when}" for (source, target), when in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"
