"""How a database of each kind is connected to, how long it is waited for, and what its errors mean."""

from __future__ import annotations

import os
import time
from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from opensloth.errors import FieldError, InvalidInput, Unavailable

PATIENCE_S = 10.0
"""How long a transaction waits for its turn to write, or for what another one has locked."""

_SILENCE_S = 30.0
"""A PostgreSQL that has not answered a statement for so long is given up: its host hangs or is cut off."""

_IDLE_S = 10
"""PostgreSQL ends a session that has done nothing for so long inside a transaction; ours take milliseconds. Less than
what a lease can spare, as the session may hold the lock that a renewal needs."""

_POLL_S, _URGENT_POLL_S = 0.004, 0.001
"""How often a transaction that waits for SQLite's one writer looks again. SQLite itself would look ever more rarely, up
to ten times a second, so that a process which writes all the time lets hardly anybody in between."""

URGENT = "urgent"
"""Value of the option `opensloth_write` of a transaction that goes before others."""

_SQLITE_BUSY, _SQLITE_READONLY, _SQLITE_FULL, _SQLITE_CANTOPEN = 5, 8, 13, 14
_CURES = {
    _SQLITE_BUSY: ("the database is busy", "try again in a moment"),
    _SQLITE_READONLY: ("the database cannot be written", "make its file and its disk writable"),
    _SQLITE_CANTOPEN: ("the database's file cannot be opened", "put it back where OPENSLOTH_DATABASE_URL says it is"),
}
_PASSING = {"25006", "25P03"}
"""States of PostgreSQL that pass and are no OperationalError: a standby that takes over, a session that slept."""
_PASSING_REFUSALS = ("starting up", "shutting down", "recovery", "not yet accepting", "connection slots", "too many")
"""What a PostgreSQL says that takes no connection now; there is no code for why one was refused."""


def make_engine(url: str) -> Engine:
    """The engine behind a URL of a known kind; raises InvalidInput for another. Nothing is connected yet."""
    try:
        parsed = make_url(url)
        known = parsed.get_backend_name() in {"sqlite", "postgresql"}
    except ArgumentError:
        known = False
    if not known:
        message = "must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
        raise InvalidInput(f"OPENSLOTH_DATABASE_URL {message}", fields=[FieldError("OPENSLOTH_DATABASE_URL", message)])
    return _postgres(parsed) if parsed.get_backend_name() == "postgresql" else _sqlite(parsed)


def unavailable(error: SQLAlchemyError) -> Unavailable | None:
    """What a driver's error means where the database is the cause; None for a mistake of ours."""
    orig = getattr(error, "orig", None)
    state = getattr(orig, "sqlstate", None)
    code = getattr(orig, "sqlite_errorcode", 0) & 0xFF
    if "no such table" in str(orig) or "no such column" in str(orig) or state in ("42P01", "42703"):
        return Unavailable(
            "the database is not of this version",
            code="database_not_migrated",
            hint="run `python -m migrations` with the same OPENSLOTH_DATABASE_URL",
        )
    if code == _SQLITE_FULL or state == "53100":
        return Unavailable("the database's disk is full", code="database_full", hint="make room on it, then try again")
    # DatabaseError itself, not what derives from it: a file that is no database, or a broken one.
    away = isinstance(error, OperationalError | InterfaceError | PoolTimeout) or type(error) is DatabaseError
    if not away and state not in _PASSING and not getattr(error, "connection_invalidated", False):
        return None
    kind = _SQLITE_BUSY if state == "55P03" else code
    message, hint = _CURES.get(kind, ("the database does not answer at the moment", "try again in a moment"))
    return Unavailable(message, code="database_unavailable", hint=hint)


def may_pass(error: BaseException | None) -> bool:
    """Whether a database that could not be used will be there by itself: it is busy, starting, or not reached yet.

    One that refuses us (a wrong password, no such database) or cannot be read has to be mended by somebody.
    """
    orig = getattr(error, "orig", None)
    if not isinstance(error, OperationalError) or orig is None:
        return False
    if hasattr(orig, "sqlite_errorcode"):
        return bool(orig.sqlite_errorcode & 0xFF == _SQLITE_BUSY)
    said = str(orig)
    return "FATAL" not in said or any(text in said for text in _PASSING_REFUSALS)


MAY_BE_AWAY = (OperationalError, InterfaceError, PoolTimeout, DatabaseError, ProgrammingError)
"""What `unavailable` is asked about."""


# PostgreSQL


def _postgres(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    # A peer that is cut off acknowledges nothing: the kernel gives up after 10 s instead of a quarter of an hour.
    patience = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=30,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,  # what an error names goes to logs: hashes of keys, addresses of webhooks
        connect_args={"connect_timeout": 5, **patience},
    )
    event.listen(engine, "do_connect", _postgres_do_connect)
    event.listen(engine, "connect", _postgres_connect)
    event.listen(engine, "after_cursor_execute", _postgres_executed)
    return engine


def _postgres_do_connect(dialect: object, record: object, args: Any, options: Any) -> Any:
    # Imported here: a process that talks to SQLite does without.
    from opensloth.impatience import ImpatientConnection

    made = ImpatientConnection.connect(*args, **options)
    made.silence_s = _SILENCE_S
    return made


def _postgres_connect(connection: Any, record: object) -> None:
    # A process that is stopped, or a host that is cut off, in the middle of a transaction must not keep its locks.
    connection.autocommit = True
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_S}s'")
    connection.execute(f"SET lock_timeout = '{PATIENCE_S:.0f}s'")
    connection.autocommit = False


def _postgres_executed(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: object, executemany: bool
) -> None:
    # psycopg sends a batch as a pipeline, after which the server's timer for idle transactions is not running: a host
    # that was cut off there kept its locks. Any other statement starts it.
    if executemany:
        connection.connection.driver_connection.execute("SELECT 1")  # type: ignore[union-attr]


# SQLite


def _sqlite(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=50,  # as many as there are threads: opening one and its settings cost more than most queries
        max_overflow=0,
        pool_timeout=10,
        hide_parameters=True,
        connect_args={"timeout": PATIENCE_S, "check_same_thread": False},
    )
    if url.database and url.database != ":memory:":
        _same_file(engine, url.database)
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _same_file(engine: Engine, path: str) -> None:
    """Let no connection write into a file that was moved away or replaced, nor a new one make an empty file there."""
    import sqlite3  # here, as above: most of PostgreSQL's processes never need it

    def identity() -> tuple[int, int] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    was_there = False

    def before(dialect: object, record: object, args: Any, options: Any) -> None:
        if was_there and identity() is None:
            error = sqlite3.OperationalError(f"{path} is gone")
            error.sqlite_errorcode = _SQLITE_CANTOPEN
            raise error

    def connected(connection: Any, record: Any) -> None:
        nonlocal was_there
        was_there = True
        record.info["file"] = identity()

    def taken(connection: Any, record: Any, proxy: object) -> None:
        if record.info.get("file") != identity():
            raise DisconnectionError(f"{path} is another file now")

    event.listen(engine, "do_connect", before)
    event.listen(engine, "connect", connected)
    event.listen(engine, "checkout", taken)


def _sqlite_connect(connection: Any, record: object) -> None:
    # The driver's own transactions start too late to guard a select that an update follows; ours are explicit.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={PATIENCE_S * 1000:.0f}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("opensloth_write", False)
    if not writes:
        connection.exec_driver_sql("BEGIN")
        return
    deadline = time.monotonic() + PATIENCE_S
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                busy = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == _SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
            time.sleep(_URGENT_POLL_S if writes == URGENT else _POLL_S)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={PATIENCE_S * 1000:.0f}")
