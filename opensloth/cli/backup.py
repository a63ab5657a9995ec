"""`opensloth backup` and `opensloth restore`: run on the server's machine, with the server's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from opensloth.cli.up import check_machine

Home = Annotated[Path | None, typer.Option(envvar="OPENSLOTH_HOME", help="Default: ~/.opensloth")]


def backup(
    target: Annotated[str, typer.Argument(help="A folder, a file that ends in .tar, or an fsspec URL.")],
    with_storage: Annotated[
        bool, typer.Option("--with-storage", help="Datasets, models, checkpoints, results and logs too.")
    ] = False,
    home: Home = None,
) -> None:
    """Write the database, as it is at this moment, to a place of its own; jobs may run.

    It reads the server's own settings (OPENSLOTH_HOME, OPENSLOTH_DATABASE_URL, OPENSLOTH_STORAGE_URL), so run it where
    the server runs.
    """
    _run(home, "make", target, *(["--with-storage"] if with_storage else []))


def restore(
    source: Annotated[str, typer.Argument(help="What `opensloth backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Also where a box runs or holds jobs; it is kept.")] = False,
    home: Home = None,
) -> None:
    """Put a backup in the place of the database, into either kind; stop the box before, start it after.

    The backup is checked first and loaded aside; what was there is kept. Jobs that ran when it was made are queued
    again and go on from the checkpoints in the storage.
    """
    _run(home, "restore", source, *(["--force"] if force else []))


def _run(home: Path | None, *arguments: str) -> None:
    check_machine("backup", needs_valkey=False)
    environment = {**os.environ, **({"OPENSLOTH_HOME": str(home.expanduser().absolute())} if home else {})}
    done = subprocess.run([sys.executable, "-P", "-m", "opensloth.backup", *arguments], env=environment, check=False)
    if done.returncode != 0:
        raise typer.Exit(1)
