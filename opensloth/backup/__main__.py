"""`python -m opensloth.backup make|restore WHERE [--with-storage] [--force]`: what `opensloth backup` runs."""

from __future__ import annotations

import argparse
import sys

from opensloth.backup.make import make_backup
from opensloth.backup.restore import restore
from opensloth.errors import OpenSlothError
from opensloth.settings import get_settings


def main() -> None:
    """The command; ends with 1 and says why where it cannot be done."""
    parser = argparse.ArgumentParser(prog="opensloth.backup")
    parser.add_argument("verb", choices=["make", "restore"])
    parser.add_argument("where")
    parser.add_argument("--with-storage", action="store_true")
    parser.add_argument("--force", action="store_true")
    asked = parser.parse_args()
    try:
        if asked.verb == "make":
            _make(asked.where, with_storage=asked.with_storage)
        else:
            _restore(asked.where, force=asked.force)
    except OpenSlothError as error:
        sys.exit(f"{error.message}" + (f"\n  {error.hint}" if error.hint else ""))
    except OSError as error:
        sys.exit(f"{asked.where}: {error.strerror or error}")


def _make(where: str, *, with_storage: bool) -> None:
    settings = get_settings()
    made = make_backup(settings, where, with_storage=with_storage)
    rows = sum(made.about.tables.values())
    print(f"{where}: {rows:,} rows of {len(made.about.tables)} tables, revision {made.about.revision}")
    stored = f"{made.stored_files:,} files of the storage, {made.stored_bytes / 2**30:.2f} GiB"
    print(f"  with {stored}" if with_storage else f"  without the {stored}: back {settings.storage} up as well")
    if made.missing:
        print(f"  {made.missing} files were removed while they were copied, as jobs ran")
    if made.about.secret_key is not None:
        place = "OPENSLOTH_SECRET_KEY" if settings.secret_key else str(settings.secret_key_file)
        print(f"  secrets are in it sealed; their key is not: keep {place} elsewhere")


def _restore(where: str, *, force: bool) -> None:
    done = restore(get_settings(), where, force=force)
    print(f"the box is as it was at {done.about.made_at}: {sum(done.about.tables.values()):,} rows")
    print(f"  {done.stored_files:,} files went into the storage")
    if done.kept:
        print(f"  the database of before is kept as {done.kept}")
    for remark in done.remarks:
        print(f"  {remark}")
    print("  start API and workers now; keys are those of then, and `opensloth up --new-key` makes another")


if __name__ == "__main__":
    main()
