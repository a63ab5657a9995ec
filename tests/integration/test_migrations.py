"""Each revision keeps what a filled database holds, on both databases, and comes to what the code declares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, Table, func, insert, select

import migrations.__main__ as migrations
from opensloth.database import Base, Database
from tests.support import servers


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database at the first revision, with a row in every table."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'old.db'}")
        migrations.upgrade(database.url, "0001")
        _fill(database)
        yield database
        database.engine.dispose()
    else:
        with servers.fresh_postgres_database(request.getfixturevalue("postgres_server")) as url:
            command.downgrade(migrations.config(url), "0001")
            database = Database(url)
            _fill(database)
            yield database
            database.engine.dispose()


def test_an_upgrade_keeps_every_row_and_a_downgrade_too(old: Database) -> None:
    before = _counts(old)
    assert all(count > 0 for count in before.values())
    migrations.upgrade(old.url)
    assert {name: count for name, count in _counts(old).items() if name in before} == before
    with old.read() as session:
        jobs = Table("jobs", MetaData(), autoload_with=session.connection())
        assert session.execute(select(jobs.c.kind, jobs.c.export_of)).all() == [("training", None)] * 2
    command.downgrade(migrations.config(old.url), "0001")
    assert _counts(old) == before


def test_the_newest_revision_is_what_the_code_declares(old: Database) -> None:
    migrations.upgrade(old.url)
    with old.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def _fill(database: Database) -> None:
    """One row in every table, two jobs of which one depends on the other; values are what the columns' types allow."""
    metadata = MetaData()
    with database.write() as session:
        metadata.reflect(session.connection())
        for table in metadata.sorted_tables:
            if table.name == "alembic_version":
                continue
            for name in ("a", "b") if table.name == "jobs" else ("a",):
                session.execute(insert(table).values({c.name: _value(table, c, name) for c in table.columns}))


def _value(table: Table, column: object, name: str) -> object:
    kind = column.type.python_type  # type: ignore[attr-defined]
    if column.name == "depends_on" and table.name == "job_dependencies":  # type: ignore[attr-defined]
        return "b"
    return {str: name, int: 1, float: 1.0, bool: False, dict: {}}.get(kind, {})


def _counts(database: Database) -> dict[str, int]:
    metadata = MetaData()
    with database.read() as session:
        metadata.reflect(session.connection())
        tables = [table for table in metadata.sorted_tables if table.name != "alembic_version"]
        return {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}
