"""What the routes that make jobs share: the idempotency key, and how the answer tells a new job from a known one."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.views import JobView

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def checked_key(
    idempotency_key: Annotated[str | None, Header(description="The same key and body give the same job.")] = None,
) -> str | None:
    """The key of the request; raises InvalidInput for one that no header should carry."""
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        message = "use 1 to 255 printable ASCII characters without spaces"
        raise InvalidInput("a header is not valid", fields=[FieldError("Idempotency-Key", message)])
    return idempotency_key


IdempotencyKey = Annotated[str | None, Depends(checked_key)]


def answered(response: Response, submitted: tuple[JobView, bool], under: str = "/v1/jobs") -> JobView:
    """The job, with where it is and whether it was made before in the headers of `response`."""
    job, created = submitted
    response.headers["Location"] = f"{under}/{job.id}"
    if not created:
        say_replayed(response)
    return job


def say_replayed(response: Response) -> None:
    """The job was made by an earlier request."""
    response.headers["Idempotent-Replayed"] = "true"
