"""Transactions that lose nothing, errors that say what is away, migrations that keep every row."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from migrations.__main__ import bring_up_to_date, config, upgrade
from opensloth.accounts.rows import ApiKeyRow
from opensloth.connections import may_pass
from opensloth.database import Base, Database, after_commit, db_now
from opensloth.errors import Conflict, InvalidInput, OpenSlothError, Unavailable
from opensloth.schema import WrongSchema, require_schema
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import submit


def test_read_then_write_loses_no_update(services: Services) -> None:
    row, _ = services.keys.create("ada")

    def count_up() -> None:
        for _ in range(20):
            with services.database.write() as session:
                found = session.get_one(ApiKeyRow, row.id, with_for_update=True)
                values = {"created_at": found.created_at + 1}
                session.execute(update(ApiKeyRow).where(ApiKeyRow.id == row.id).values(**values))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with services.database.read() as session:
        assert round(session.get_one(ApiKeyRow, row.id).created_at - row.created_at) == 80


def test_callbacks_run_after_the_commit_and_never_after_a_rollback(services: Services) -> None:
    ran: list[str] = []
    with services.database.write() as session:
        after_commit(session, lambda: ran.append("committed"))
        assert ran == []

    def write_and_fail() -> None:
        with services.database.write() as session:
            after_commit(session, lambda: ran.append("rolled back"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert ran == ["committed"]


@pytest.mark.parametrize(
    "url", ["sqlite:////proc/nowhere/x.db", "postgresql://nobody@127.0.0.1:1/none"], ids=["sqlite", "postgresql"]
)
def test_a_database_that_is_away_is_unavailable(url: str) -> None:
    database = Database(url)
    for transaction in (database.read, database.write):
        with pytest.raises(Unavailable), transaction() as session:
            session.execute(text("SELECT 1"))


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ('connection to server at "127.0.0.1", port 5432 failed: Connection refused', True),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", True),
        ("connection failed: FATAL:  the database system is starting up", True),
        ('connection failed: FATAL:  password authentication failed for user "ada"', False),
        ('connection failed: FATAL:  database "none" does not exist', False),
    ],
)
def test_what_is_waited_for_passes_by_itself(said: str, passes: bool) -> None:
    assert may_pass(OperationalError("SELECT 1", None, psycopg.OperationalError(said))) is passes


def test_a_file_that_is_moved_away_is_neither_written_nor_made_anew_and_works_when_it_is_back(tmp_path: Path) -> None:
    file, aside = tmp_path / "x.db", tmp_path / "aside.db"
    upgrade(f"sqlite:///{file}")
    database = Database(f"sqlite:///{file}")
    database.ping()
    file.rename(aside)
    for transaction in (database.read, database.write):
        with pytest.raises(Unavailable, match="cannot be opened"), transaction() as session:
            session.execute(text("SELECT 1"))
    assert not file.exists()
    aside.rename(file)
    database.probe()
    database.engine.dispose()


def test_a_start_without_the_file_that_was_there_makes_no_empty_one(tmp_path: Path) -> None:
    file, aside = tmp_path / "db" / "x.db", tmp_path / "aside.db"
    file.parent.mkdir()
    settings = Settings(home=tmp_path / "home", database_url=f"sqlite:///{file}")
    bring_up_to_date(settings)
    bring_up_to_date(settings)
    file.rename(aside)
    with pytest.raises(Conflict, match=r"x\.db is gone: it was there before") as gone:
        bring_up_to_date(settings)
    with pytest.raises(WrongSchema, match=r"x\.db is not there"):
        require_schema(Database(settings.database))
    assert not file.exists()
    careless = Database(settings.database)
    careless.ping()  # makes an empty one
    careless.engine.dispose()
    with pytest.raises(Conflict, match="is gone"):
        bring_up_to_date(settings)
    aside.rename(file)
    bring_up_to_date(settings)
    require_schema(Database(settings.database))
    file.unlink()
    seen = tmp_path / "home" / "seen.txt"
    assert str(seen) in str(gone.value.hint)
    seen.unlink()
    bring_up_to_date(settings)
    assert counts(Database(settings.database))["jobs"] == 0


def test_the_clock_moves_within_a_transaction(services: Services) -> None:
    with services.database.read() as session:
        first = session.scalar(select(db_now())) or 0.0
        while (session.scalar(select(db_now())) or 0.0) == first:
            pass


def counts(database: Database) -> dict[str, int]:
    with database.read() as session:
        return {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }


def test_migrations_say_what_the_models_say(services: Services) -> None:
    command.check(config(services.database.url))


def test_migrating_again_keeps_every_row(services: Services) -> None:
    submit(services)
    services.keys.create("ada")
    before = counts(services.database)
    upgrade(services.database.url)
    assert counts(services.database) == before
    assert before["jobs"] == before["files"] == before["api_keys"] == 1


def test_two_migrate_a_new_database_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    failures: list[BaseException] = []

    def run() -> None:
        import subprocess
        import sys

        environment = {"OPENSLOTH_DATABASE_URL": url, "PATH": "/usr/bin:/bin", "OPENSLOTH_HOME": str(tmp_path)}
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, "-m", "migrations"], cwd=root, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            failures.append(AssertionError(done.stderr))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert counts(Database(url))["jobs"] == 0


@pytest.mark.parametrize("url", ["nonsense", "mysql://box/x", "oracle://x"])
def test_a_url_of_no_known_database_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidInput, match="OPENSLOTH_DATABASE_URL must be"):
        Database(url)


def test_an_error_of_the_database_does_not_say_what_was_written(services: Services) -> None:
    with pytest.raises((SQLAlchemyError, OpenSlothError)) as failed, services.database.write() as session:
        session.execute(text("INSERT INTO no_such_table (value) VALUES (:value)"), {"value": "whsec_inthelog"})
    assert "whsec_inthelog" not in f"{failed.value} {failed.value.__cause__}"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL has many writers
def test_an_urgent_write_goes_before_those_that_wait_for_their_turn(services: Services) -> None:
    database = services.database
    over = threading.Event()

    def keep_writing() -> None:
        """A process that gives the others next to no gap."""
        writer = sqlite3.connect(database.url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
        while not over.is_set():
            writer.execute("BEGIN IMMEDIATE")
            over.wait(0.02)
            writer.execute("COMMIT")
        writer.close()

    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        with database._turn():  # somebody of this process is next
            for _ in range(10):
                with database.write(urgent=True) as session:
                    session.execute(text("UPDATE alembic_version SET version_num = version_num"))
    finally:
        over.set()
        thread.join()


def test_a_database_that_is_not_migrated_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refusal, Database(f"sqlite:///{tmp_path / 'new.db'}").read() as session:
        session.execute(select(ApiKeyRow))
    assert refusal.value.error_code == "database_not_migrated"
    assert "python -m migrations" in str(refusal.value.hint)
