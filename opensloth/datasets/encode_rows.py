"""Batches of rows to token ids, in this process or, where there are many, in several."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any

from opensloth.datasets.encode import Row
from opensloth.datasets.prepared import DataCounts
from opensloth.errors import FieldError, InvalidDataset

BATCH_ROWS = 256
ALONE_BATCHES = 16
"""Batches after which helpers are worth their start."""
MAX_PROCESSES = 16
PR_SET_PDEATHSIG = 1

Encode = Callable[[list[Row]], list[Any]]
_encode: Encode | None = None  # what the helpers do; they are forks of this process


def encoded_rows(
    rows: Iterable[Row], encode: Encode, counts: DataCounts, processes: int | None = None
) -> Iterator[Any]:
    """What `encode` makes of the rows, in order; raises InvalidDataset naming a row that fails.

    At most a few batches are in memory. `processes` is as many as there are cores for this process when not given.
    """
    batches = _batches(iter(rows))
    wanted = usable_processes() if processes is None else processes
    for batch in islice(batches, ALONE_BATCHES if wanted > 1 else None):
        yield from _finish(batch, partial(encode, batch), encode, counts)
    upcoming = next(batches, None)
    if upcoming is None:
        return
    with _helpers(encode, wanted) as pool:
        waiting: deque[tuple[list[Row], Future[list[Any]]]] = deque()
        while upcoming is not None or waiting:
            while upcoming is not None and len(waiting) < 3 * wanted:
                waiting.append((upcoming, pool.submit(_run, upcoming)))
                upcoming = next(batches, None)
            batch, future = waiting.popleft()
            yield from _finish(batch, future.result, encode, counts)


def usable_processes() -> int:
    """How many processes may work for this one: its cores, or fewer where the worker said so."""
    if sys.platform != "linux":
        return 1
    cores = len(os.sched_getaffinity(0))
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(MAX_PROCESSES, cores, int(told) if told.isdecimal() else cores))


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _finish(batch: list[Row], result: Callable[[], list[Any]], encode: Encode, counts: DataCounts) -> Iterator[Any]:
    try:
        done = result()
    except BrokenProcessPool:
        raise
    except Exception:
        done = list(_one_by_one(batch, encode, counts.rows))
    counts.rows += len(batch)
    yield from done


def _one_by_one(batch: list[Row], encode: Encode, before: int) -> Iterator[Any]:
    for i, row in enumerate(batch):
        try:
            yield from encode([row])
        except Exception as error:
            number = before + i + 1
            message = f"row {number} cannot be tokenized: {error}"
            raise InvalidDataset(message, fields=[FieldError(f"rows[{number - 1}]", str(error), row=number)]) from error


def _helpers(encode: Encode, processes: int) -> ProcessPoolExecutor:
    global _encode
    _encode = encode
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(os.getpid(),))


def _begin(parent: int) -> None:
    """In a helper: it dies with its parent, and the parent's handlers of signals are not for it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _run(batch: list[Row]) -> list[Any]:
    assert _encode is not None
    return _encode(batch)
