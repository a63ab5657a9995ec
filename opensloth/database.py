"""The one truth: engine, transactions and time on SQLite (one host) and PostgreSQL (a team)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, Double, MetaData, select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.functions import FunctionElement

from opensloth.connections import MAY_BE_AWAY, PATIENCE_S, URGENT, make_engine, unavailable
from opensloth.errors import Unavailable

log = logging.getLogger(__name__)

SCHEDULER_LOCK = 0x051074
"""Key of PostgreSQL's advisory lock for planning; SQLite's `BEGIN IMMEDIATE` is that lock already."""


class Base(DeclarativeBase):
    """Base of every table; times are seconds since 1970 by the database's clock."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, float: Double, int: BigInteger}  # noqa: RUF012


class db_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970 by the database's clock, which is the only clock that leases are compared with."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(element: object, compiler: object, **kw: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgres_now(element: object, compiler: object, **kw: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


class Database:
    """Opens short transactions; a failure to reach the database is raised as Unavailable."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = make_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._writers = threading.Lock() if self.is_sqlite else None
        self._probing, self._probed = threading.Lock(), float("-inf")

    @property
    def file(self) -> Path | None:
        """The file of SQLite; None for a server, and in memory."""
        name = self.engine.url.database
        return Path(name).absolute() if self.is_sqlite and name and name != ":memory:" else None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with reachable(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Session]:
        """A transaction that may write, committed at the end; then what `after_commit` was given runs.

        An `urgent` one goes before the others that wait for SQLite's one writer; for what is short and must be in time.
        """
        callbacks: list[Callable[[], None]] = []
        info = {"after_commit": callbacks}
        turn = nullcontext() if urgent else self._turn()
        with reachable(), turn, Session(self.engine, expire_on_commit=False, info=info) as session:
            session.connection(execution_options={"opensloth_write": URGENT if urgent else True})
            yield session
            session.commit()
        for callback in callbacks:
            callback()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite has one writer at a time and lets the others poll, unfairly: threads of one process queue up here.

        At 16 clients that took the slowest percent of submissions from 2.8 s to what the writes themselves need.
        """
        if self._writers is None:
            yield
            return
        if not self._writers.acquire(timeout=PATIENCE_S):
            raise Unavailable("the database is busy", code="database_unavailable", hint="try again in a moment")
        try:
            yield
        finally:
            self._writers.release()

    @contextmanager
    def scheduler_lock(self) -> Iterator[Session]:
        """A write transaction that no other planner is in at the same time."""
        with self.write() as session:
            if not self.is_sqlite:
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEDULER_LOCK})
            yield session

    def probe(self) -> None:
        """Raise Unavailable unless something can be written; asked once a second, however many want to know.

        It writes what stands there: only a transaction that changes a page finds out that the disk is full.
        """
        with self._probing:
            if time.monotonic() - self._probed > 1.0:
                with self.write(urgent=True) as session:
                    session.execute(text("UPDATE alembic_version SET version_num = version_num"))
                self._probed = time.monotonic()

    def ping(self) -> None:
        """Raise Unavailable unless the database answers."""
        with self.read() as session:
            session.execute(text("SELECT 1"))


def now_of(session: Session) -> float:
    """The moment by the database's clock, in seconds since 1970."""
    return float(session.scalar(select(db_now())) or 0.0)


def after_commit(session: Session, callback: Callable[[], None]) -> None:
    """Run `callback` once the transaction of `session` is committed; never if it is rolled back."""
    session.info["after_commit"].append(callback)


def insert_of(session: Session) -> Any:
    """The `insert` of the session's kind of database, which can say what to do where the row is there already."""
    # Imported here because each brings all drivers of its kind, and a process talks to one database.
    if session.get_bind().dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert
    from sqlalchemy.dialects.postgresql import insert as postgres_insert

    return postgres_insert


@contextmanager
def reachable() -> Iterator[None]:
    """Raise Unavailable where the database cannot be reached."""
    try:
        yield
    except MAY_BE_AWAY as error:
        meaning = unavailable(error)
        if meaning is None:
            raise
        log.warning("%s: %s", meaning.message, error)
        raise meaning from error
