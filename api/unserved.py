"""What is said to a request for a route that there is not: which of OpenAI's are left out, and where to go instead."""

from __future__ import annotations

from collections.abc import Callable

from opensloth.errors import NotFound

SERVED = "fine-tuning jobs and graders, files, uploads, models, chat completions, completions and webhooks"
"""What of OpenAI's interface is here."""

_CHAT = "ask with /v1/chat/completions"
LEFT_OUT: dict[str, tuple[str, str | None]] = {
    "agents": ("agents", _CHAT),
    "assistants": ("assistants", _CHAT),
    "audio": ("speech and transcription", None),
    "batches": ("batches", "send the requests one by one; those to one model are computed together anyway"),
    "chat": ("stored chat completions", "keep the answers that POST /v1/chat/completions gives: the server keeps none"),
    "chatkit": ("ChatKit", _CHAT),
    "containers": ("containers", None),
    "content_provenance_checks": ("checks of where content is from", None),
    "conversations": ("conversations", f"{_CHAT}, with all of the messages so far"),
    "decisions": ("decisions", None),
    "embeddings": ("embeddings", None),
    "evals": ("evals", "POST /v1/jobs/{id}/evaluations compares a job's result with its base by the same graders"),
    "fine-tunes": ("the fine-tunes of 2023", "use /v1/fine_tuning/jobs"),
    "images": ("images", None),
    "live": ("live sessions", _CHAT),
    "moderations": ("moderation", None),
    "organization": ("administration by OpenAI's interface", "users, teams, keys and audit are /v1/users and so on"),
    "projects": ("projects", "a team sees all of its own: /v1/teams"),
    "realtime": ("realtime sessions", _CHAT),
    "responses": ("the Responses API", "send the messages to /v1/chat/completions"),
    "safety": ("cases and alerts of safety", None),
    "skills": ("skills", None),
    "threads": ("threads", f"{_CHAT}, with all of the messages so far"),
    "vaults": ("vaults", "keys that jobs need are kept by /v1/secrets"),
    "vector_stores": ("vector stores", None),
    "videos": ("videos", None),
}
"""By what follows `/v1/`: what OpenAI has there, and what to use here instead."""


def left_out(name: str, asked: str) -> NotFound:
    """The error for what OpenAI has under `/v1/` and `name` and OpenSloth has not; `asked` is the method and path."""
    what, instead = LEFT_OUT[name]
    advice = f"; {instead}" if instead else ""
    message = f"OpenSloth does not serve {what} ({asked}){advice}. Of OpenAI's it serves {SERVED}"
    return NotFound(message, code="not_supported")


def no_route(method: str, path: str, is_served: Callable[[str], bool]) -> NotFound:
    """The error for a path that has no route; `is_served` says whether another path has one."""
    asked = f"{method} {path[:200]}"
    name = path.removeprefix("/v1/").split("/", 1)[0] if path.startswith("/v1/") else ""
    if name in LEFT_OUT:
        return left_out(name, asked)
    if not path.startswith("/v1/") and is_served(f"/v1{path}"):
        return NotFound(f"there is no route {asked}: the base URL of a client ends in /v1, and this one's does not")
    if path.startswith("/v1/v1/"):
        return NotFound(f"there is no route {asked}: the base URL of a client ends in /v1 once")
    return NotFound(f"there is no route {asked}", hint="the routes are listed at /docs")
