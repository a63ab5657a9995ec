"""The check of a Parquet file, in a process of its own with little memory: such a file may unpack to anything.

The child is this module: `python -m opensloth.datasets.parquet FILE`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from opensloth.datasets.containers import not_a_dataset
from opensloth.datasets.forms import detect, known_columns
from opensloth.datasets.records import Unreadable
from opensloth.datasets.report import FileCheck, Report
from opensloth.errors import InvalidDataset, TooLarge

CHILD_MEMORY_BYTES = 2 * 2**30
"""Memory of the child beyond which it dies; a file with sensible row groups needs a tenth of it."""
LEAST_TIME_S = 60.0
SLOWEST_BYTES_PER_S = 2 * 2**20


def check_parquet(path: Path, max_line_bytes: int) -> FileCheck:
    """The check of the Parquet file at `path`. Raises InvalidDataset, or TooLarge if it unpacks beyond all measure."""
    time_limit = LEAST_TIME_S + path.stat().st_size / SLOWEST_BYTES_PER_S
    # Nothing of the parent's environment that may hold a secret; Arrow's own pools reserve more than they use.
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-m", "opensloth.datasets.parquet", str(path)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=time_limit, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise TooLarge("the Parquet file takes too long to unpack; write fewer rows to a file") from None
    if done.returncode != 0:
        raise TooLarge(
            "the Parquet file needs too much memory or is damaged; write it with row groups of at most 128 MB",
            code="parquet_unreadable",
        )
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise not_a_dataset(answer["refused"])
    check = FileCheck.model_validate(answer)
    if not check.rows:
        raise not_a_dataset("the file has no rows; write at least one")
    return check


def main() -> None:
    """Check the file that the first argument names and print the result as JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (CHILD_MEMORY_BYTES, CHILD_MEMORY_BYTES))
    try:
        print(_check(Path(sys.argv[1])).model_dump_json())
    except InvalidDataset as error:
        print(json.dumps({"refused": error.message}))


def _check(path: Path) -> FileCheck:
    from opensloth.datasets.readers import iter_records

    report, form = Report(), None
    for record in iter_records(path, "parquet", columns=sorted(known_columns())):
        if isinstance(record, Unreadable):
            raise not_a_dataset(record.message)
        if not report.rows:
            form = detect(record.values)
        report.add(record)
    return report.result("parquet", form)


if __name__ == "__main__":
    main()
