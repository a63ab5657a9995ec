"""Bring the database up to date: `python -m migrations`; further verbs: upgrade, downgrade and revision."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DatabaseError

from opensloth.connections import may_pass
from opensloth.database import Database
from opensloth.errors import Conflict, OpenSlothError, Unavailable
from opensloth.schema import database_revision, is_newer
from opensloth.seen import Seen
from opensloth.settings import Settings, get_settings


def config(url: str) -> Config:
    """Alembic's configuration for the database at `url`."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent))
    found.attributes["url"] = url
    return found


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` up to `revision`; does nothing where it is there already."""
    command.upgrade(config(url), revision)


def bring_up_to_date(settings: Settings) -> None:
    """Upgrade the database that these settings name, which may be newer or new.

    Raises Conflict where this home has worked with a file that is gone: everybody's jobs would seem to be lost.
    """
    database = Database(settings.database)
    try:
        seen, file = Seen(settings.home), database.file
        if file is not None and str(file) in seen and not _has_tables(database, file):
            raise Conflict(
                f"the database's file {file} is gone: it was there before",
                code="database_gone",
                hint=f"put it back (is its disk mounted?), or remove {seen.file} to begin with an empty one",
            )
        if is_newer(database):
            print("the database is newer than this release, which can live with it: nothing is changed")
        else:
            upgrade(settings.database)
        if file is not None:
            seen.add(str(file))
    finally:
        database.engine.dispose()


def _has_tables(database: Database, file: Path) -> bool:
    """Whether there is more than an empty file, which whoever looked for the one that is gone may have made."""
    if not file.exists():
        return False
    with database.read() as session:
        return database_revision(session) is not None


def main() -> None:
    """Runs what the arguments say; without any, upgrades to the newest revision.

    The exit status is EX_TEMPFAIL (75) where the same may work later, as the database is only away.
    """
    settings = get_settings()
    if settings.database_url is None:
        settings.home.expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
    verb, rest = (sys.argv[1:2] or ["upgrade"])[0], sys.argv[2:]
    try:
        if verb == "upgrade" and not rest:
            bring_up_to_date(settings)
        elif verb == "upgrade":
            upgrade(settings.database, rest[0])
        elif verb == "downgrade" and rest:
            command.downgrade(config(settings.database), rest[0])
        elif verb == "revision" and rest:
            command.revision(config(settings.database), rest[0], autogenerate=True)
        else:
            sys.exit("use: upgrade [REVISION] | downgrade REVISION | revision MESSAGE")
    except Unavailable as error:
        cause = error.__cause__
        print(f"migrations: {error.message}: {getattr(cause, 'orig', None) or cause}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if may_pass(cause) else 1)
    except OpenSlothError as error:
        sys.exit(f"migrations: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
    except DatabaseError as error:
        sys.exit(f"migrations: the database cannot be used: {error.orig}")


if __name__ == "__main__":
    main()
