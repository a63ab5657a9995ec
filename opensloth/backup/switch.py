"""A database beside the one in use, filled and brought up to date there, and put into its place in one transaction."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, make_url, text

from opensloth.backup.errors import BackupUnusable
from opensloth.backup.rows import count, load, reflected
from opensloth.database import Database, reachable

ASIDE = "opensloth_restoring"
"""The schema, or what the file is called."""


class Aside:
    """An empty database of the same kind as `live`, gone in the end unless it has taken the other's place."""

    def __init__(self, live: Database) -> None:
        self._live = live
        if live.is_sqlite:
            self._file = Path(make_url(live.url).database or "").absolute()
            self._aside = self._file.with_name(f"{self._file.name}.restoring")
            self.url = f"sqlite:///{self._aside}"
        else:
            # What names no schema is made in, and found in, this one.
            url = make_url(live.url).update_query_dict({"options": f"-csearch_path={ASIDE}"})
            self.url = url.render_as_string(hide_password=False)

    @contextmanager
    def open(self) -> Iterator[Aside]:
        """Make it, and remove it at the end."""
        self._remove()
        if not self._live.is_sqlite:
            with self._live.write() as session:
                session.execute(text(f"CREATE SCHEMA {ASIDE}"))
        else:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            yield self
        finally:
            self._remove()

    def migrate(self, revision: str) -> None:
        """Bring it to a revision; raises BackupUnusable with what Alembic says."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "migrations", "upgrade", revision],
            env={**os.environ, "OPENSLOTH_DATABASE_URL": self.url},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BackupUnusable(f"the tables of revision {revision} cannot be made: {done.stderr.strip()[-500:]}")

    def fill(self, folder: Path, expected: dict[str, int]) -> None:
        """Load the rows; raises BackupUnusable unless every table has as many as were written."""
        database = Database(self.url)
        with reachable(), database.engine.connect().execution_options(opensloth_write=True) as connection:
            if database.is_sqlite:
                connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
            else:
                connection.connection.driver_connection.silence_s = None  # type: ignore[union-attr]
            with connection.begin():
                if not database.is_sqlite:
                    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                load(connection, folder)
                found = {name: rows for name, rows in count(connection).items() if name in expected}
                if database.is_sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).first()):
                    raise BackupUnusable(f"a row of {broken[0]} in the backup refers to one of {broken[2]} that is not")
        database.engine.dispose()
        if found != expected:
            wrong = next(name for name in expected if found.get(name) != expected[name])
            raise BackupUnusable(f"the backup says {expected[wrong]} rows of {wrong}, and has {found.get(wrong)}")

    def switch(self) -> str | None:
        """Put it in the place of the one in use, whole; returns where that one is kept, in words, if it had tables."""
        stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime())
        return self._switch_file(stamp) if self._live.is_sqlite else self._switch_schema(stamp)

    def _switch_file(self, stamp: str) -> str | None:
        """SQLite copies one database over another in one transaction of the other, which readers see whole."""
        kept = self._file.with_name(f"{self._file.name}.before_{stamp}")
        with contextlib.closing(sqlite3.connect(self._file, timeout=60)) as live:
            filled = live.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
            if filled:
                with contextlib.closing(sqlite3.connect(kept)) as keeper:
                    live.backup(keeper)
                kept.chmod(0o600)
            with contextlib.closing(sqlite3.connect(self._aside)) as aside:
                aside.backup(live)
            live.execute("PRAGMA journal_mode=WAL")
        return str(kept) if filled else None

    def _switch_schema(self, stamp: str) -> str | None:
        kept = f"opensloth_before_{stamp}"
        with self._live.write() as session:
            connection = session.connection()
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            home = connection.scalar(text("SELECT current_schema()"))
            before = _tables(connection)
            if before:
                connection.execute(text(f"CREATE SCHEMA {kept}"))
            for name in before:
                connection.execute(text(f'ALTER TABLE "{home}"."{name}" SET SCHEMA {kept}'))
            filled = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = :s"), {"s": ASIDE})
            for name in filled.all():
                connection.execute(text(f'ALTER TABLE {ASIDE}."{name}" SET SCHEMA "{home}"'))
        return f"the schema {kept} of the database" if before else None

    def _remove(self) -> None:
        if self._live.is_sqlite:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self._aside}{suffix}").unlink(missing_ok=True)
            return
        with self._live.write() as session:
            session.execute(text(f"DROP SCHEMA IF EXISTS {ASIDE} CASCADE"))


def _tables(connection: Connection) -> list[str]:
    names = [table.name for table in reflected(connection).sorted_tables]
    has_version = connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    return [*names, *(["alembic_version"] if has_version else [])]
