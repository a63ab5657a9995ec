"""What can be wrong with a store, and how long to try again before it counts."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from opensloth.errors import OpenSlothError, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE_S = 10.0
"""How long a process that somebody waits for tries again; a trainer, which nobody does, has more."""
TRAINER_PATIENCE_S = 300.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 15.0

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO, errno.ENOTCONN),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE),
    }
)
"""What a mount of a file server, or the way to it, may recover from."""


class StorageCorrupt(OpenSlothError):
    """What is stored is not what was written."""

    code = "storage_corrupt"


class StorageUnavailable(Unavailable):
    """The storage does not answer, or refuses; the same may succeed later."""

    code = "storage_error"


def patiently(work: Callable[[], T], may_pass: Callable[[Exception], bool], patience_s: float) -> T:
    """What `work` returns, which may be called again; what cannot pass is raised as it is.

    Waits twice as long each time, give or take a half, until `patience_s` are over.
    """
    deadline, wait = time.monotonic() + patience_s, FIRST_WAIT_S
    while True:
        try:
            return work()
        except Exception as error:
            pause = wait * random.uniform(0.5, 1.5)
            if not may_pass(error) or time.monotonic() + pause > deadline:
                raise
            log.warning("the storage failed and is tried again: %s: %s", type(error).__name__, error)
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT_S)


def folder_may_recover(error: Exception) -> bool:
    """Whether a directory store may do at the next try what it could not do now."""
    return isinstance(error, OSError) and error.errno in PASSING
