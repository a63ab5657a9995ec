"""Register a model on this machine without a running service: `python -m opensloth.models.pull NAME [SOURCE]`."""

from __future__ import annotations

import sys

from opensloth.accounts.callers import HOST
from opensloth.errors import OpenSlothError
from opensloth.models.imports import claim_import, run_import
from opensloth.services import Services
from opensloth.settings import get_settings

_LEASE_S = 3600.0


def main() -> None:
    """Import the model into storage and write its row; exit status 1 with one line where that fails."""
    name, source = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    services = Services.make(get_settings())
    host = f"pull:{services.settings.host_id}"
    try:
        model = services.models.register(name, source, HOST)
        while model.status == "importing" and (claimed := claim_import(services.database, host, _LEASE_S)):
            scratch = services.settings.home.expanduser() / "imports"
            run_import(services.database, services.storage, services.secrets, scratch, claimed, host)
            model = services.models.get(name, HOST)
    except OpenSlothError as error:
        sys.exit("\n".join([error.message, *(f"{field.path}: {field.message}" for field in error.fields)]))
    if model.status == "failed":
        sys.exit(f"{name} cannot be imported: {model.error}")
    print(f"{name} is {model.status}")


if __name__ == "__main__":
    main()
