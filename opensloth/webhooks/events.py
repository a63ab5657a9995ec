"""What a webhook can be told, and the body in which it is told: OpenAI's events for training jobs, and three more."""

from __future__ import annotations

import json
import secrets

OPENAI = {
    "succeeded": "fine_tuning.job.succeeded",
    "failed": "fine_tuning.job.failed",
    "cancelled": "fine_tuning.job.cancelled",
}
"""By the state in which a training job ended."""
OWN = {
    "running": "opensloth.job.running",
    "paused": "opensloth.job.paused",
    **dict.fromkeys(OPENAI, "opensloth.job.ended"),
}
"""By the state that any job came to, exports and commands too."""
EVENT_TYPES = (*OPENAI.values(), *dict.fromkeys(OWN.values()))


def types_of(kind: str, state: str) -> list[str]:
    """The events that a job of this kind makes when it comes to `state`; a chat engine comes and goes untold."""
    if kind == "chat":
        return []
    openai = OPENAI.get(state) if kind == "training" else None
    return [name for name in (openai, OWN.get(state)) if name is not None]


def body_of(event_type: str, job_id: str, state: str, now: float) -> tuple[str, str]:
    """A new event's id, and the JSON that is sent; OpenAI's events have nothing in `data` but the id."""
    event_id = f"evt_{secrets.token_hex(12)}"
    data = {"id": job_id}
    if event_type not in OPENAI.values():
        data["state"] = state
    event = {"id": event_id, "object": "event", "created_at": int(now), "type": event_type, "data": data}
    return event_id, json.dumps(event, separators=(",", ":"))


def sample(event_type: str, now: float) -> str:
    """The body of an event of a job that does not exist, to try a webhook with."""
    states = {name: state for state, name in (*OWN.items(), *OPENAI.items())}
    return body_of(event_type, f"ftjob-{'0' * 24}", states[event_type], now)[1]
