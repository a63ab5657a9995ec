"""Each revision keeps what a filled database holds, on both databases, and comes to what the code declares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, MetaData, Table, cast, func, insert, select
from sqlalchemy.types import String

import migrations.__main__ as migrations
from opensloth.database import Base, Database
from opensloth.schema import code_revision
from tests.support import servers

Content = dict[str, list[dict[str, Any]]]
"""Rows by table, in a fixed order."""
FIRST_ADDITIVE = "0005"
"""From this revision on a release lives with the tables of the next one."""


def revisions() -> list[str]:
    script = ScriptDirectory.from_config(migrations.config("sqlite://"))
    return [revision.revision for revision in reversed(list(script.walk_revisions()))]


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database at the first revision, with a row in every table."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'old.db'}")
        migrations.upgrade(database.url, "0001")
        fill(database)
        yield database
        database.engine.dispose()
    else:
        with servers.fresh_postgres_database(request.getfixturevalue("postgres_server")) as url:
            command.downgrade(migrations.config(url), "0001")
            database = Database(url)
            fill(database)
            yield database
            database.engine.dispose()


def test_every_revision_keeps_what_it_finds_forward_and_back(old: Database) -> None:
    """Values too, wherever both revisions have the table and the column."""
    known = revisions()
    assert known == sorted(known)
    for revision in known[1:]:
        fill(old)
        before = content(old)
        assert all(before.values()), "every table has rows"
        migrations.upgrade(old.url, revision)
        kept(before, content(old), revision)
    fill(old)
    for revision in reversed(known[:-1]):
        before = content(old)
        command.downgrade(migrations.config(old.url), revision)
        kept(before, content(old), f"back to {revision}")


def test_from_the_first_revision_to_the_newest_and_back_at_once(old: Database) -> None:
    before = content(old)
    migrations.upgrade(old.url)
    kept(before, content(old), "the newest")
    with old.read() as session:
        jobs = Table("jobs", MetaData(), autoload_with=session.connection())
        assert session.execute(select(jobs.c.kind, jobs.c.export_of)).all() == [("training", None)] * 2
    command.downgrade(migrations.config(old.url), "0001")
    assert content(old) == before


def test_each_revision_takes_what_the_release_before_it_writes(old: Database) -> None:
    """Nothing that it knows is gone, and a row with what it knows alone is taken."""
    known = revisions()
    migrations.upgrade(old.url, FIRST_ADDITIVE)
    for revision in known[known.index(FIRST_ADDITIVE) + 1 :]:
        earlier = reflected(old)
        migrations.upgrade(old.url, revision)
        later = reflected(old)
        for name, table in earlier.tables.items():
            assert name in later.tables, f"{revision} takes the table {name} away"
            gone = set(table.columns.keys()) - set(later.tables[name].columns.keys())
            assert not gone, f"{revision} takes {gone} of {name} away"
        fill(old, earlier, suffix=revision)


def test_the_newest_revision_is_what_the_code_declares(old: Database) -> None:
    migrations.upgrade(old.url)
    with old.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    assert code_revision() == revisions()[-1]


def reflected(database: Database) -> MetaData:
    metadata = MetaData()
    with database.read() as session:
        metadata.reflect(session.connection())
    metadata.remove(metadata.tables["alembic_version"])
    return metadata


def fill(database: Database, metadata: MetaData | None = None, suffix: str = "") -> None:
    """A row in every table that has not got it, two in `jobs` of which one depends on the other.

    Values are what the columns' types allow.
    """
    metadata = metadata or reflected(database)
    with database.write() as session:
        for table in metadata.sorted_tables:
            if table.name == "schema_floor":
                continue  # migrations alone write it
            for name in ("a", "b") if table.name == "jobs" else ("a",):
                values = {c.name: _value(table, c, name, suffix) for c in table.columns}
                same = [column == values[column.name] for column in table.primary_key]
                if session.scalar(select(func.count()).select_from(table).where(*same)) == 0:
                    session.execute(insert(table).values(values))


def _value(table: Table, column: Any, name: str, suffix: str) -> object:
    if column.name == "depends_on" and table.name == "job_dependencies":
        name = "b"
    number = int(suffix or 0) + 1
    kinds = {str: name + suffix, int: number, float: float(number), bool: False, dict: {}}
    return kinds.get(column.type.python_type, {})


def content(database: Database) -> Content:
    found: Content = {}
    metadata = reflected(database)
    with database.read() as session:
        for table in metadata.sorted_tables:
            # JSON as text: as a value it has no order, and null in it is not NULL.
            columns = [cast(c, String).label(c.name) if isinstance(c.type, JSON) else c for c in table.columns]
            rows = session.execute(select(*columns).order_by(*table.primary_key.columns))
            found[table.name] = [dict(row) for row in rows.mappings()]
    return found


def kept(before: Content, after: Content, what: str) -> None:
    """The same rows, as far as both have the table and the column."""
    for name in before.keys() & after.keys():
        if name == "schema_floor":
            continue  # a revision's own word
        assert len(after[name]) == len(before[name]), f"{what}: rows of {name}"
        for old_row, new_row in zip(before[name], after[name], strict=True):
            both = old_row.keys() & new_row.keys()
            assert {c: old_row[c] for c in both} == {c: new_row[c] for c in both}, f"{what}: {name}"
