"""Print the first admin key, once: `python -m opensloth.accounts.bootstrap` (`--new` makes a further one)."""

from __future__ import annotations

import sys

from opensloth.accounts.keys import KeyService
from opensloth.database import Database
from opensloth.errors import OpenSlothError
from opensloth.settings import get_settings


def main() -> None:
    """Prints a key if there was no admin key yet, or if `--new` asks for one; else nothing."""
    try:
        keys = KeyService(Database(get_settings().database))
        key = keys.further_admin_key() if "--new" in sys.argv[1:] else keys.bootstrap()
    except OpenSlothError as error:
        sys.exit(f"bootstrap: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
    if key:
        print(key)


if __name__ == "__main__":
    main()
