"""Where a script finds the model that it names: a directory, a registered model, the catalogue or the hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from opensloth.errors import FieldError, InvalidInput
from opensloth.models.catalogue import CATALOGUE

FIELD = "opensloth_config.fast_model_args.model_name"


def local_model(name: str) -> str:
    """A local directory or a hub id for `name`, as transformers takes it.

    A model of the catalogue that is not on this machine yet is fetched to `$OPENSLOTH_HOME/models`. Raises
    InvalidInput for a name that is none of these, CannotImport where fetching fails.
    """
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if "/" in name:
        return name
    found = _registered(name) or (_fetched(name) if name in CATALOGUE else None)
    if found is not None:
        return str(found)
    message = f"no model {name!r} on this machine; name a local directory, a hub id or {', '.join(sorted(CATALOGUE))}"
    raise InvalidInput(message, fields=[FieldError(FIELD, message, "unknown_model")])


def _registered(name: str) -> Path | None:
    """The files of a base model that the service on this machine has registered."""
    from sqlalchemy import inspect

    from opensloth.database import Database
    from opensloth.models.rows import ModelRow
    from opensloth.settings import get_settings
    from opensloth.storage import Storage

    settings = get_settings()
    if settings.database_url is None and not (settings.home.expanduser() / "opensloth.db").exists():
        return None
    database = Database(settings.database)
    with database.read() as session:
        if not inspect(session.connection()).has_table(ModelRow.__tablename__):
            return None
        row = session.get(ModelRow, name)
        if row is None or row.status != "ready" or row.kind != "base" or row.storage_key is None:
            return None
        key = row.storage_key
    return Storage(settings.storage).local_path(key)


def _fetched(name: str) -> Path:
    from opensloth.models.acquire import acquire
    from opensloth.settings import get_settings
    from opensloth.storage import Storage

    home = get_settings().home.expanduser()
    storage = Storage(str(home / "models"))
    if storage.list_tree(name) is None:
        print(f"Fetching {name} to {home / 'models'}: {CATALOGUE[name].description}", flush=True)
        scratch = home / "runs" / f"fetch-{name}"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            acquire(name, name, storage, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    path = storage.local_path(name)
    assert path is not None
    return path
