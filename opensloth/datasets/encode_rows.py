"""Batches of rows to token ids, in this process or, where there are many, in several."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from opensloth.datasets.prepared import DataCounts
from opensloth.datasets.raw import NumberedRows, raw_rows
from opensloth.datasets.row_text import Row
from opensloth.errors import FieldError, InvalidDataset

BATCH_ROWS = 256
ALONE_BATCHES = 4
"""Batches after which helpers are worth their start."""
MAX_PROCESSES = 16
PR_SET_PDEATHSIG = 1

Encode = Callable[[list[Row]], Iterable[Any]]
Work = Callable[["Batch"], Iterable[Any]]
_work: Work | None = None  # what the helpers do; they are forks of this process


class RowRefused(ValueError):
    """A row that can be tokenized and yet not be trained on; the message says why."""


@dataclass(frozen=True)
class Batch:
    """Some rows of a source and their numbers in it."""

    rows: list[Row]
    numbers: list[int]
    name: str | None

    def one_by_one(self) -> Iterator[Batch]:
        """A batch of each row."""
        for row, number in zip(self.rows, self.numbers, strict=True):
            yield Batch([row], [number], self.name)


def encoded_rows(
    rows: Iterable[Row], encode: Encode, counts: DataCounts, processes: int | None = None
) -> Iterator[Any]:
    """What `encode` makes of the rows, in order; raises InvalidDataset naming a row that fails.

    Rows that know how they were written are converted where they are encoded. At most a few batches are in memory.
    `processes` is as many as there are cores for this process when not given.
    """
    source, convert = raw_rows(rows)

    def work(batch: Batch) -> Iterable[Any]:
        return encode(convert(batch.rows, batch.numbers))

    batches = _batches(source, getattr(rows, "name", None))
    wanted = usable_processes() if processes is None else processes
    for batch in islice(batches, ALONE_BATCHES if wanted > 1 else None):
        yield from _finish(batch, partial(work, batch), work, counts)
    upcoming = next(batches, None)
    if upcoming is None:
        return
    with _helpers(work, wanted) as pool:
        waiting: deque[tuple[Batch, Future[Iterable[Any]]]] = deque()
        while upcoming is not None or waiting:
            while upcoming is not None and len(waiting) < 3 * wanted:
                waiting.append((upcoming, pool.submit(_run, upcoming)))
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


def _batches(rows: NumberedRows, name: str | None) -> Iterator[Batch]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield Batch([row for _, row in batch], [number for number, _ in batch], name)


def _finish(batch: Batch, result: Callable[[], Iterable[Any]], work: Work, counts: DataCounts) -> Iterator[Any]:
    try:
        done = result()
    except BrokenProcessPool:
        raise
    except Exception:
        done = list(_one_by_one(batch, work))
    counts.rows += len(batch.rows)
    yield from done


def _one_by_one(batch: Batch, work: Work) -> Iterator[Any]:
    for single in batch.one_by_one():
        try:
            yield from work(single)
        except InvalidDataset:
            raise
        except Exception as error:
            number = single.numbers[0]
            what = f"row {number}{'' if isinstance(error, RowRefused) else ' cannot be tokenized'}: {error}"
            message = what if batch.name is None else f"{batch.name}: {what}"
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


def _run(batch: Batch) -> Iterable[Any]:
    assert _work is not None
    return _work(batch)
