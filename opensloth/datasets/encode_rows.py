"""Batches of rows to token ids, in this process or, where there are many, in several."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any

from opensloth.datasets.canonical import CanonicalRows
from opensloth.datasets.encode import Row
from opensloth.datasets.prepared import DataCounts
from opensloth.errors import FieldError, InvalidDataset

BATCH_ROWS = 256
ALONE_BATCHES = 4
"""Batches after which helpers are worth their start."""
MAX_PROCESSES = 16
PR_SET_PDEATHSIG = 1

Encode = Callable[[list[Row]], Iterable[Any]]
Work = Callable[[list[Row], int], Iterable[Any]]
_work: Work | None = None  # what the helpers do; they are forks of this process


def encoded_rows(
    rows: Iterable[Row], encode: Encode, counts: DataCounts, processes: int | None = None
) -> Iterator[Any]:
    """What `encode` makes of the rows, in order; raises InvalidDataset naming a row that fails.

    Rows that know a raw form are converted where they are encoded. At most a few batches are in memory. `processes` is
    as many as there are cores for this process when not given.
    """
    source, convert = rows.raw() if isinstance(rows, CanonicalRows) else (iter(rows), _as_they_are)

    def work(batch: list[Row], number: int) -> Iterable[Any]:
        return encode(convert(batch, number))

    batches = _batches(source)
    wanted = usable_processes() if processes is None else processes
    for number, batch in islice(batches, ALONE_BATCHES if wanted > 1 else None):
        yield from _finish(batch, partial(work, batch, number), work, counts)
    upcoming = next(batches, None)
    if upcoming is None:
        return
    with _helpers(work, wanted) as pool:
        waiting: deque[tuple[list[Row], Future[Iterable[Any]]]] = deque()
        while upcoming is not None or waiting:
            while upcoming is not None and len(waiting) < 3 * wanted:
                number, batch = upcoming
                waiting.append((batch, pool.submit(_run, batch, number)))
                upcoming = next(batches, None)
            batch, future = waiting.popleft()
            yield from _finish(batch, future.result, work, counts)


def usable_processes() -> int:
    """How many processes may work for this one: its cores, or fewer where the worker said so."""
    if sys.platform != "linux":
        return 1
    cores = len(os.sched_getaffinity(0))
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(MAX_PROCESSES, cores, int(told) if told.isdecimal() else cores))


def _batches(rows: Iterator[Row]) -> Iterator[tuple[int, list[Row]]]:
    """Batches, each with the number of its first row, from 1."""
    number = 1
    while batch := list(islice(rows, BATCH_ROWS)):
        yield number, batch
        number += len(batch)


def _as_they_are(rows: Sequence[Row], number: int) -> list[Any]:
    return list(rows)


def _finish(batch: list[Row], result: Callable[[], Iterable[Any]], work: Work, counts: DataCounts) -> Iterator[Any]:
    try:
        done = result()
    except BrokenProcessPool:
        raise
    except Exception:
        done = list(_one_by_one(batch, work, counts.rows))
    counts.rows += len(batch)
    yield from done


def _one_by_one(batch: list[Row], work: Work, before: int) -> Iterator[Any]:
    for number, row in enumerate(batch, before + 1):
        try:
            yield from work([row], number)
        except InvalidDataset:
            raise
        except Exception as error:
            message = f"row {number} cannot be tokenized: {error}"
            raise InvalidDataset(message, fields=[FieldError(f"rows[{number - 1}]", str(error), row=number)]) from error


def _helpers(work: Work, processes: int) -> ProcessPoolExecutor:
    global _work
    _work = work
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
    gc.freeze()  # what the parent left need not be looked through, nor its memory be copied for that


def _run(batch: list[Row], number: int) -> Iterable[Any]:
    assert _work is not None
    return _work(batch, number)
