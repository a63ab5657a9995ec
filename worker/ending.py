"""The end of an attempt: its reason where the worker itself failed, and its way into the database."""

from __future__ import annotations

import logging
import time

from opensloth.errors import InvalidInput, OpenSlothError, Unavailable
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.endings import End
from opensloth.jobs.reasons import REASONS
from opensloth.storage import StorageCorrupt

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 10.0


def write_end(attempts: AttemptService, job_id: str, attempt: int, end: End) -> None:
    """Write the end however long the database is away: a terminal state must not be lost.

    One that cannot be written as it is becomes an internal error; raises what even that meets.
    """
    wait = 0.5
    while True:
        try:
            state = attempts.end(job_id, attempt, end)
        except Unavailable:
            time.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_S)
            continue
        except Exception as error:
            if end.code == "internal_error" and end.kind == "failed":
                raise
            log.exception("%s: its end could not be written as it was", job_id)
            end = End("failed", "internal_error", f"{type(error).__name__}: {error}", log_tail=end.log_tail)
            continue
        log.info("%s: attempt %d ended: %s", job_id, attempt, state or "refused, not ours any more")
        return


def reason_of(error: Exception) -> str:
    """The reason code for what failed outside the trainer: some of it can be tried again."""
    if isinstance(error, OpenSlothError) and error.error_code in REASONS:
        return error.error_code
    kinds = {InvalidInput: "invalid_arguments", Unavailable: "lease_lost", StorageCorrupt: "storage_error"}
    named = next((code for kind, code in kinds.items() if isinstance(error, kind)), None)
    return named or ("storage_error" if isinstance(error, OSError) else "internal_error")
