"""A chat template is a program of the model's: what it may take while it makes the text of one conversation."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SECONDS = 20.0
"""For one conversation; a template that ends takes a thousandth."""
MEMORY_BYTES = 2 * 2**30
"""More than the process has already."""
_PAGE = resource.getpagesize()


class TemplateUnbounded(ValueError):
    """The template did not end, or grew beyond all measure."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raises TemplateUnbounded if what is in it takes more than `SECONDS` or `MEMORY_BYTES`.

    Only in the main thread, the only one that a signal interrupts; nobody else renders beside a model.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform != "linux":
        yield
        return
    before = signal.signal(signal.SIGALRM, _late)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (_at_most(soft, hard), hard))
    try:
        yield
    except MemoryError:
        message = f"the chat template takes more than {MEMORY_BYTES // 2**30} GiB for this conversation"
        raise TemplateUnbounded(message) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def _at_most(soft: int, hard: int) -> int:
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    return min([_data_bytes() + MEMORY_BYTES, *limits])


def _data_bytes() -> int:
    """What the process has of what RLIMIT_DATA counts (proc(5), statm: data + stack)."""
    file = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(file, 256).split()[5]) * _PAGE
    finally:
        os.close(file)


def _late(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise TemplateUnbounded(f"the chat template did not end within {SECONDS:g} s")
