"""What files are taken for."""

from __future__ import annotations

from opensloth.errors import FieldError, InvalidInput

PURPOSE = "fine-tune"
OTHER_PURPOSES = {
    "assistants": "there are no assistants here",
    "batch": "there is no batch API here",
    "evals": "rows to evaluate on are uploaded with purpose `fine-tune` too",
    "user_data": "nothing but training reads files here",
    "vision": "models are trained on text alone here",
}
"""OpenAI's other purposes, and why no file is taken for them."""


def require_purpose(purpose: str) -> None:
    """Raise InvalidInput unless files are taken for this purpose."""
    if purpose != PURPOSE:
        why = OTHER_PURPOSES.get(purpose)
        told = f"`{purpose}` is not supported: {why}" if why else f"{purpose[:64]!r} is not supported"
        message = f"files are taken with purpose `{PURPOSE}`; {told}"
        raise InvalidInput("the purpose is not supported", fields=[FieldError("purpose", message)])
