"""Several files of one split made one, in a process of its own with little memory: they may unpack to anything.

The child is this module: `python -m opensloth.datasets.merge TARGET MAX_BYTES MAX_LINE_BYTES FILE...`.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from opensloth.datasets.isolated import CHILD_MEMORY_BYTES, run_child
from opensloth.datasets.readers import PARQUET_BATCH_ROWS, iter_records
from opensloth.datasets.records import Unreadable
from opensloth.errors import InvalidDataset, OpenSlothError, TooLarge

ROW_GROUP_BYTES = 32 * 2**20


def merge_isolated(paths: list[Path], target: Path, max_bytes: int, max_line_bytes: int) -> None:
    """Write the rows of all `paths`, in this order, to `target`: Parquet stays Parquet, the others become JSONL.

    Raises InvalidDataset for a file that cannot be read and TooLarge where `target` would exceed `max_bytes`.
    """
    arguments = [str(target), str(max_bytes), str(max_line_bytes), *map(str, paths)]
    size = sum(path.stat().st_size for path in paths)
    answer = run_child("opensloth.datasets.merge", arguments, size, "the files")
    if "refused" in answer:
        kind = TooLarge if answer["too_large"] else InvalidDataset
        raise kind(answer["refused"], code=answer["code"], hint=answer["hint"])


def main() -> None:
    """Merge the files that the arguments name and print as JSON how it went."""
    resource.setrlimit(resource.RLIMIT_DATA, (CHILD_MEMORY_BYTES, CHILD_MEMORY_BYTES))
    target, max_bytes, max_line_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    paths = [Path(path) for path in sys.argv[4:]]
    try:
        with target.open("wb") as sink:
            if target.suffix == ".parquet":
                _merge_parquet(paths, _Bounded(sink, max_bytes))
            else:
                _merge_text(paths, _Bounded(sink, max_bytes), max_line_bytes)
    except OpenSlothError as error:
        too_large = isinstance(error, TooLarge)
        answer = {"refused": error.message, "code": error.error_code, "hint": error.hint, "too_large": too_large}
        print(json.dumps(answer))
    else:
        print("{}")


class _Bounded:
    """A file that takes so many bytes and no more."""

    def __init__(self, sink: IO[bytes], limit: int) -> None:
        self._sink = sink
        self._limit = limit
        self._position = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._position += len(data)
        if self._position > self._limit:
            raise TooLarge(f"the files hold more than {self._limit:,} bytes", code="file_too_large")
        return self._sink.write(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self.closed = True


def _merge_text(paths: list[Path], sink: _Bounded, max_line_bytes: int) -> None:
    for path in paths:
        for record in iter_records(path, max_line_bytes=max_line_bytes):
            if isinstance(record, Unreadable):
                where = f" (line {record.line})" if record.line not in (None, record.row) else ""
                raise InvalidDataset(f"{path.name}: row {record.row}{where} {record.message}")
            sink.write(json.dumps(record.values, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")


def _merge_parquet(paths: list[Path], sink: _Bounded) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.unify_schemas(
            [pyarrow.parquet.read_schema(path).remove_metadata() for path in paths], promote_options="permissive"
        )
        with pyarrow.parquet.ParquetWriter(pyarrow.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
            for path in paths:
                for table in _tables(path, schema):
                    writer.write_table(table)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InvalidDataset(f"the Parquet files cannot be read as one: {reason}") from None


def _tables(path: Path, schema: Any) -> Iterator[Any]:
    """The rows of one file as tables of about ROW_GROUP_BYTES, with the columns and types of `schema`."""
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as parquet:
        held: list[Any] = []
        held_bytes = 0
        for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, use_threads=False):
            held.append(batch)
            held_bytes += batch.nbytes
            if held_bytes >= ROW_GROUP_BYTES:
                yield _fitted(pyarrow.Table.from_batches(held), schema)
                held, held_bytes = [], 0
        if held:
            yield _fitted(pyarrow.Table.from_batches(held), schema)


def _fitted(table: Any, schema: Any) -> Any:
    import pyarrow

    table = table.replace_schema_metadata(None)
    return pyarrow.concat_tables([schema.empty_table(), table], promote_options="permissive").select(schema.names)


if __name__ == "__main__":
    main()
