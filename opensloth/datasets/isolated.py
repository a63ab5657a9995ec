"""The check of a Parquet or compressed file, in a process of its own with little memory: it may unpack to anything.

The child is this module: `python -m opensloth.datasets.isolated FILE NAME MAX_LINE_BYTES MEMORY_BYTES`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opensloth.datasets.compression import open_plain, plain_name
from opensloth.datasets.containers import not_a_dataset
from opensloth.datasets.forms import detect, known_columns
from opensloth.datasets.messages import shown
from opensloth.datasets.records import Unreadable
from opensloth.datasets.report import MAX_COLUMNS, FileCheck, Report
from opensloth.errors import FieldError, InvalidDataset, OpenSlothError, TooLarge

CHILD_MEMORY_BYTES = 2 * 2**30
"""Memory of the child beyond which it dies; a file with sensible row groups needs a tenth of it."""
LEAST_TIME_S = 60.0
SLOWEST_BYTES_PER_S = 2 * 2**20


def check_isolated(path: Path, filename: str, max_line_bytes: int) -> FileCheck:
    """The check of the file at `path`. Raises InvalidDataset, or TooLarge if it unpacks beyond all measure."""
    arguments = [str(path), filename, str(max_line_bytes), str(CHILD_MEMORY_BYTES)]
    answer = run_child("opensloth.datasets.isolated", arguments, path.stat().st_size, "the file")
    if "refused" in answer:
        raise _refusal(answer)
    check = FileCheck.model_validate(answer)
    if not check.rows:
        raise not_a_dataset("the file has no rows; write at least one")
    return check


def run_child(module: str, arguments: Sequence[str], size: int, what: str) -> dict[str, Any]:
    """What `module` answers, run on `what`, of `size` bytes, in a process of little memory, time and environment.

    Raises TooLarge where it took too long or died.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=child_environment(),
            capture_output=True,
            timeout=LEAST_TIME_S + size / SLOWEST_BYTES_PER_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TooLarge(f"{what} could not be unpacked in time; write fewer rows to a file") from None
    if done.returncode != 0:
        raise TooLarge(
            f"reading {what} took too much memory, or found damage; write Parquet with row groups of at most 128 MB",
            code="parquet_unreadable",
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def child_environment() -> dict[str, str]:
    """What a child gets: nothing of the parent's environment that may hold a secret."""
    # Arrow's own pools reserve more than they use.
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(sys.path)}
    return environment | {
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "TOKENIZERS_PARALLELISM": "false",
    }


def main() -> None:
    """Check the file that the arguments name and print the result as JSON."""
    path, filename, max_line_bytes, memory_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    try:
        check = _check_parquet(path) if is_parquet else _check_compressed(path, filename, max_line_bytes)
        print(check.model_dump_json())
    except OpenSlothError as error:
        fields = [asdict(field) for field in error.fields]
        too_large = isinstance(error, TooLarge)
        print(
            json.dumps(
                {
                    "refused": error.message,
                    "code": error.error_code,
                    "hint": error.hint,
                    "fields": fields,
                    "too_large": too_large,
                }
            )
        )


def _check_parquet(path: Path) -> FileCheck:
    import pyarrow.parquet

    from opensloth.datasets.readers import iter_records

    report, form = Report(), None
    for record in iter_records(path, "parquet", columns=sorted(known_columns())):
        if isinstance(record, Unreadable):
            raise not_a_dataset(record.message)
        if not report.rows:
            form = detect(record.values)
        report.add(record)
    found = report.result("parquet", form)
    names = pyarrow.parquet.read_schema(path).names
    return found.model_copy(update={"columns": [shown(name) for name in names[:MAX_COLUMNS]]})


def _check_compressed(path: Path, filename: str, max_line_bytes: int) -> FileCheck:
    from opensloth.datasets.check import check_stream

    with open_plain(path) as file:
        return check_stream(file, plain_name(filename), max_line_bytes)


def _refusal(answer: dict[str, Any]) -> OpenSlothError:
    fields = [FieldError(**field) for field in answer["fields"]]
    kind = TooLarge if answer["too_large"] else InvalidDataset
    return kind(answer["refused"], code=answer["code"], hint=answer["hint"], fields=fields)


if __name__ == "__main__":
    main()
