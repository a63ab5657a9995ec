"""All rows of a database at one moment as JSON lines, the same for SQLite and PostgreSQL, and back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, MetaData, Table, cast, func, insert, select, text
from sqlalchemy.types import LargeBinary, String

from opensloth.backup.errors import BackupUnusable
from opensloth.database import Database, reachable

SUFFIX = ".jsonl.gz"
_BATCH = 1000


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """A connection that sees the database as it is now, whatever others write meanwhile."""
    with reachable(), database.engine.connect() as connection:
        if not database.is_sqlite:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
            connection.execute(text("SET TRANSACTION READ ONLY"))
            # Between two batches the disk may take its time.
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection  # in SQLite's WAL the first read fixes what all others see


def reflected(connection: Connection) -> MetaData:
    """The tables as they are, without Alembic's own."""
    metadata = MetaData()
    metadata.reflect(connection)
    if "alembic_version" in metadata.tables:
        metadata.remove(metadata.tables["alembic_version"])
    return metadata


def dump(connection: Connection, folder: Path) -> dict[str, int]:
    """Write `TABLE.jsonl.gz` for each table: its columns, then a row a line; returns how many rows each has."""
    return {table.name: _dump(connection, table, folder) for table in reflected(connection).sorted_tables}


def load(connection: Connection, folder: Path) -> dict[str, int]:
    """Fill the tables, which are empty but for what migrations put there; returns how many rows each got.

    Raises BackupUnusable for a file that does not belong to these tables.
    """
    tables = reflected(connection).sorted_tables
    strange = {path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}")} - {table.name for table in tables}
    if strange:
        raise BackupUnusable(f"the backup has rows of {min(strange)}, which its own revision does not know")
    for table in reversed(tables):
        connection.execute(table.delete())
    loaded = {table.name: _load(connection, table, folder / f"{table.name}{SUFFIX}") for table in tables}
    count_on(connection)
    return loaded


def count_on(connection: Connection) -> None:
    """Let the ids that PostgreSQL counts go on after those of rows that brought theirs; SQLite does so by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in reflected(connection).sorted_tables:
        key = table.autoincrement_column
        if key is None:
            continue
        sequence = func.pg_get_serial_sequence(f'"{table.name}"', key.name)
        newest = connection.scalar(select(func.max(key)))
        if newest is not None:
            # NULL for a column that counts nothing, and then setval does nothing.
            connection.execute(select(func.setval(sequence, newest)))


def count(connection: Connection) -> dict[str, int]:
    """How many rows each table has."""
    tables = reflected(connection).sorted_tables
    return {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def _dump(connection: Connection, table: Table, folder: Path) -> int:
    for column in table.columns:
        if isinstance(column.type, LargeBinary):
            raise BackupUnusable(f"the column {table.name}.{column.name} holds bytes, which no backup can hold yet")
    # JSON as the text that is stored: a null in it is not NULL, and numbers stay as they are.
    columns = [cast(c, String).label(c.name) if isinstance(c.type, JSON) else c for c in table.columns]
    rows = connection.execution_options(yield_per=_BATCH).execute(select(*columns).order_by(*table.primary_key))
    number = 0
    with gzip.open(folder / f"{table.name}{SUFFIX}", "wt", encoding="utf-8", compresslevel=3) as file:
        file.write(json.dumps([column.name for column in table.columns]) + "\n")
        for row in rows:
            file.write(json.dumps(list(row), ensure_ascii=False, separators=(",", ":")) + "\n")
            number += 1
    return number


def _load(connection: Connection, table: Table, path: Path) -> int:
    if not path.exists():
        return 0
    number = 0
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        names = json.loads(file.readline())
        if unknown := set(names) - set(table.columns.keys()):
            raise BackupUnusable(f"the backup has a column {table.name}.{min(unknown)} that its revision does not know")
        documents = [n for n, name in enumerate(names) if isinstance(table.columns[name].type, JSON)]
        for n in documents:
            table.columns[names[n]].type = JSON(none_as_null=True)
        batch: list[dict[str, Any]] = []
        for line in file:
            row = json.loads(line)
            for n in documents:
                if row[n] is not None:
                    document = json.loads(row[n])
                    row[n] = JSON.NULL if document is None else document
            batch.append(dict(zip(names, row, strict=True)))
            if len(batch) == _BATCH:
                connection.execute(insert(table), batch)
                number, batch = number + len(batch), []
        if batch:
            connection.execute(insert(table), batch)
    return number + len(batch)
