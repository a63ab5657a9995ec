"""Runs migrations in one transaction under a lock, with foreign keys off and checked before the commit."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

import opensloth.accounts.rows
import opensloth.datasets.rows
import opensloth.datasets.upload_rows
import opensloth.devices.rows
import opensloth.events.rows
import opensloth.jobs.chat_engines
import opensloth.jobs.rows
import opensloth.models.rows
import opensloth.schema
import opensloth.storage.rows
import opensloth.webhooks.rows  # noqa: F401 - the imports fill the metadata
from opensloth.database import Base, Database, reachable

MIGRATION_LOCK = 0x051075


def run() -> None:
    """Upgrade or downgrade the database that the configuration names."""
    database = Database(context.config.attributes["url"])
    with reachable(), database.engine.connect().execution_options(opensloth_write=True) as connection:
        if database.is_sqlite:
            # Rebuilding a table with foreign keys on would delete the rows that refer to it; only outside a
            # transaction can they be turned off.
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
        else:
            # Another one may be migrating, and a large table takes its time.
            connection.connection.driver_connection.silence_s = None  # type: ignore[union-attr]
        with connection.begin():
            if not database.is_sqlite:
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # Python has work too
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            context.configure(
                connection=connection,
                target_metadata=Base.metadata,
                render_as_batch=True,
                transactional_ddl=True,
            )
            context.run_migrations()
            if database.is_sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).first()):
                raise RuntimeError(
                    f"after the migration a row of {broken[0]} refers to one of {broken[2]} that is gone"
                )
    database.engine.dispose()


run()
