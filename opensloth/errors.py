"""Every error that OpenSloth raises on purpose, without a word of HTTP in it.

OpenSlothError
├── InvalidInput          what was sent is wrong; `fields` says where and what to do
│   ├── InvalidDataset    a file's rows cannot be used as asked
│   └── IdempotencyMismatch
├── NotAuthenticated      no key, or one that is unknown or expired
├── NotAllowed            the key is known and may not do this
├── NotFound              nothing with that id, or nothing that the caller may see
├── Conflict              the thing is in a state that does not allow it
│   ├── NotYet            that state passes by itself in a moment
│   └── QuotaExceeded     the user or the team has as much as it may
├── RateLimited           a key sends more requests than it may
├── TooLarge              an upload, a body or a line beyond its limit
├── InsufficientStorage   a disk is short of room
└── Unavailable           a part that is needed is away for the moment; try again
    └── NoDevice          no device comes free in the time that the request would wait
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of an input.

    `path` is dotted (`opensloth_config.dpo_args.beta`, `rows[3].chosen`); `row` is the 1-based row of a dataset file.
    """

    path: str
    message: str
    code: str = "invalid"
    row: int | None = None


class OpenSlothError(Exception):
    """Something OpenSloth refuses or cannot do; `message` says what, `hint` what to do next."""

    code: ClassVar[str] = "error"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, fields: Sequence[FieldError] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = code or self.code
        self.hint = hint
        self.fields = tuple(fields)


class InvalidInput(OpenSlothError):
    """The input is wrong in the fields that are named."""

    code = "invalid_input"


class InvalidDataset(InvalidInput):
    """The dataset cannot be used for this training type."""

    code = "invalid_dataset"


class IdempotencyMismatch(InvalidInput):
    """This Idempotency-Key was used before with another body."""

    code = "idempotency_mismatch"


class NotAuthenticated(OpenSlothError):
    """A valid API key is needed."""

    code = "invalid_api_key"


class NotAllowed(OpenSlothError):
    """The key does not allow this."""

    code = "not_allowed"


class NotFound(OpenSlothError):
    """There is nothing with that id."""

    code = "not_found"


class Conflict(OpenSlothError):
    """The present state does not allow it."""

    code = "conflict"


class NotYet(Conflict):
    """The present state does not allow it and passes by itself; the same request succeeds in a moment."""


class QuotaExceeded(Conflict):
    """The user or the team has as much as it may."""

    code = "quota_exceeded"


class RateLimited(OpenSlothError):
    """The key sends more requests than it may."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, hint: str, retry_after_s: float, headers: Mapping[str, str]) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.headers = headers


class TooLarge(OpenSlothError):
    """Larger than the limit."""

    code = "too_large"


class InsufficientStorage(OpenSlothError):
    """A disk of the service has too little room left to take in more."""

    code = "insufficient_storage"


class Unavailable(OpenSlothError):
    """A part that is needed does not answer; the same request may succeed later."""

    code = "unavailable"


class NoDevice(Unavailable):
    """No device is free for this, nor within the time that a request waits."""

    code = "no_device"

    def __init__(self, message: str, *, hint: str, retry_after_s: float) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
