"""When a file goes by itself, as OpenAI's `expires_after` says it."""

from __future__ import annotations

from typing import Any

from opensloth.errors import FieldError, InvalidInput

LEAST_S, MOST_S = 3600, 2_592_000
"""An hour to 30 days, OpenAI's own bounds."""


def expiry_seconds(anchor: Any, seconds: Any, path: tuple[str, str]) -> int:
    """Seconds after its creation that a file stays; raises InvalidInput. `path` names anchor and seconds."""
    errors = []
    if anchor != "created_at":
        wrong = "is missing" if anchor is None else f"{str(anchor)[:64]!r} is not known"
        errors.append(FieldError(path[0], f"{wrong}; write `created_at`", "missing" if anchor is None else "invalid"))
    text = str(seconds)
    whole = not isinstance(seconds, bool | float) and text.isascii() and text.isdecimal() and len(text) <= 12
    if seconds is None:
        errors.append(FieldError(path[1], "is missing", "missing"))
    elif not whole or not LEAST_S <= int(text) <= MOST_S:
        errors.append(FieldError(path[1], f"must be a whole number from {LEAST_S} (an hour) to {MOST_S} (30 days)"))
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return int(text)
