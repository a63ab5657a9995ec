"""Imports of base models: claimed by one host, kept by a lease, ended as ready or failed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sqlalchemy import or_, select, update

from opensloth.accounts.secrets import SecretService
from opensloth.database import Database, db_now
from opensloth.errors import OpenSlothError
from opensloth.models.acquire import acquire
from opensloth.models.rows import ModelRow
from opensloth.storage import Storage


def claim_import(database: Database, host_id: str, lease_s: float) -> str | None:
    """Take one model that waits for its import; returns its id."""
    waiting = ModelRow.status == "importing", or_(ModelRow.import_until.is_(None), ModelRow.import_until < db_now())
    with database.read() as session:
        model_id = session.scalar(select(ModelRow.id).where(*waiting).order_by(ModelRow.created_at).limit(1))
    if model_id is None:
        return None
    with database.write() as session:
        return session.scalar(
            update(ModelRow)
            .where(ModelRow.id == model_id, *waiting)
            .values(importer=host_id, import_until=db_now() + lease_s)
            .returning(ModelRow.id)
        )


def renew_import(database: Database, model_id: str, host_id: str, lease_s: float) -> bool:
    """Keep a claimed import; False if it is not this host's any more."""
    with database.write() as session:
        kept = session.scalar(
            update(ModelRow)
            .where(ModelRow.id == model_id, ModelRow.importer == host_id, ModelRow.status == "importing")
            .values(import_until=db_now() + lease_s)
            .returning(ModelRow.id)
        )
    return kept is not None


def run_import(
    database: Database, storage: Storage, secrets: SecretService, scratch: Path, model_id: str, host_id: str
) -> None:
    """Do a claimed import and write how it ended."""
    with database.read() as session:
        model = session.get(ModelRow, model_id)
    if model is None:
        return

    def token() -> str | None:
        return secrets.value(model.owner, model.secret) if model.secret else None

    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{model_id}-", dir=scratch))
    key = f"models/{model_id}"
    try:
        files = acquire(model.source, key, storage, folder, token)
        ended = {"status": "ready", "storage_key": key, "bytes": sum(file.bytes for file in files), "error": None}
    except OpenSlothError as error:
        ended = {"status": "failed", "error": f"{error.message}{f'; {error.hint}' if error.hint else ''}"}
    except Exception as error:
        ended = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with database.write() as session:
        session.execute(
            update(ModelRow)
            .where(ModelRow.id == model_id, ModelRow.importer == host_id)
            .values(**ended, importer=None, import_until=None)
        )
