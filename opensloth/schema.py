"""Whether this release and the database fit together: newer tables are lived with, as far as they say so themselves."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from opensloth.database import Base, Database
from opensloth.errors import Conflict

log = logging.getLogger(__name__)


class SchemaFloorRow(Base):
    """The oldest revision whose code can live with the present tables: one row, which migrations change."""

    __tablename__ = "schema_floor"

    revision: Mapped[str] = mapped_column(primary_key=True)


class WrongSchema(Conflict):
    """The database belongs to a release that this one cannot live with."""

    code = "wrong_schema"


@lru_cache(maxsize=1)
def code_revision() -> str:
    """The newest revision that this release knows; revisions are numbers of four digits, in order."""
    spec = find_spec("migrations")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    names = [file.name for folder in folders for file in Path(folder, "versions").glob("[0-9]*_*.py")]
    return max(name.split("_", 1)[0] for name in names)


def database_revision(session: Session | Connection) -> str | None:
    """The revision of the database; None where it has no tables yet."""
    connection = session.connection() if isinstance(session, Session) else session
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def is_newer(database: Database) -> bool:
    """Whether the database was brought up to date by a newer release, with which this one can live.

    Raises WrongSchema where it cannot, Unavailable while the database is away.
    """
    known = code_revision()
    with database.read() as session:
        found = database_revision(session)
        if found is None or found <= known:
            return False
        floor = session.scalar(select(SchemaFloorRow.revision)) or ""
    if known < floor:
        raise WrongSchema(
            f"the database is at revision {found}, which releases before revision {floor} cannot use; "
            f"this one knows {known}",
            hint="install the release that the other processes have",
        )
    return True


def require_schema(database: Database) -> None:
    """Raise WrongSchema unless this release can work with the database, which may be newer; or Unavailable."""
    if database.file is not None and not database.file.exists():  # looking into it would make an empty one
        raise WrongSchema(
            f"the database's file {database.file} is not there",
            hint="put it back (is its disk mounted?), or make a new one with `python -m migrations`",
        )
    if is_newer(database):
        log.warning("the database is newer than this release, which goes on; install the newer release here too")
        return
    with database.read() as session:
        found = database_revision(session)
    if found is None or found < code_revision():
        state = "has no tables yet" if found is None else f"is at revision {found}"
        raise WrongSchema(
            f"the database {state}, and this release needs {code_revision()}",
            hint="`python -m migrations` brings it up to date; `opensloth up` does it by itself",
        )
