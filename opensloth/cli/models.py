"""`opensloth models`: base models and results."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from opensloth.cli import exit_codes
from opensloth.cli.formats import ago, size
from opensloth.cli.output import Json, err, out, print_json, say, table
from opensloth.client import Client, Model, NoCredentials, Unreachable

models = typer.Typer(help="Register, list and delete models.", no_args_is_help=True)

Secret = Annotated[str | None, typer.Option(help="The secret with the token for a gated model of the hub.")]
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="Its registered name, or a job's id.")]


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List base models and results."""
    with Client() as client:
        found = list(client.models.list())
    if as_json:
        print_json([model.as_json() for model in found])
        return
    rows = [(m.id, m.kind or "-", m.status or "-", m.base or "-", size(m.bytes), ago(m.created)) for m in found]
    out().print(table(["ID", "Kind", "Status", "Base", "Size", "Made"], rows, right=["Size"]))


@models.command("pull")
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME|HUB_ID|PATH", help="smollm2-135m needs no hub.")],
    model_id: Annotated[str | None, typer.Option("--as", help="Register it under this name.")] = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Fetch a base model and register it (admins), on the server or, before `opensloth up`, on this machine."""
    try:
        with Client() as client:
            client.ready()
            model = pull_over_http(client, name, model_id, secret, quiet=as_json)
    except (NoCredentials, Unreachable) as problem:
        if secret is not None:
            raise
        _pull_here(name, model_id, problem, as_json=as_json)
        return
    if as_json:
        print_json(model.as_json())
    else:
        _tell_ready(model)


@models.command("add")
def add(
    model_id: Annotated[str, typer.Argument(metavar="NAME", help="The name jobs will use.")],
    source: Annotated[str, typer.Argument(help="A hub id, or a folder or GGUF file on the server.")],
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Register a base model under a name (admins)."""
    with Client() as client:
        model = pull_over_http(client, source, model_id, secret, quiet=as_json)
    if as_json:
        print_json(model.as_json())
    else:
        _tell_ready(model)


@models.command("alias")
def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What scripts say, e.g. gpt-4o-mini-2024-07-18.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What it stands for: a model that is there.")],
    as_json: Json = False,
) -> None:
    """Let a name stand for a model (admins); `models delete NAME` takes it back."""
    with Client() as client:
        made = client.models.alias(name, model)
    if as_json:
        print_json(made.as_json())
    else:
        say(f"{made.id} stands for {made.base}.")


@models.command("show")
def show_model(model_id: ModelId, as_json: Json = False) -> None:
    """Show one model."""
    with Client() as client:
        model = client.models.get(model_id)
    if as_json:
        print_json(model.as_json())
        return
    for name, value in model.as_json().items():
        if value is not None and name != "object":
            out().print(f"{name:<10} {_text(name, value)}", markup=False, highlight=False, soft_wrap=True)


@models.command("delete")
def delete_model(model_id: ModelId, as_json: Json = False) -> None:
    """Delete a model that no job needs."""
    with Client() as client:
        client.models.delete(model_id)
    if as_json:
        print_json({"id": model_id, "deleted": True})
    else:
        say(f"{model_id} is deleted.")


def pull_over_http(client: Client, name: str, model_id: str | None, secret: str | None = None, *, quiet: bool) -> Model:
    """Registers a model on the server and waits until it can be trained on; one that is there is taken as it is."""
    model = client.models.add(*name_and_source(name, model_id), secret=secret)
    if model.status != "importing":
        return client.models.wait_ready(model.id) if model.status == "failed" else model
    console = err()
    if not quiet and "/" in name and Path(name).parent.is_dir() and not Path(name).expanduser().exists():
        say(f"{name} is looked for on the hub: there is no folder of that name here.", style="yellow")
    if quiet:
        return client.models.wait_ready(model.id)
    if not console.is_terminal:
        say(f"Importing {model.id} ...")
        return client.models.wait_ready(model.id)
    with console.status(f"Importing {model.id}") as status:
        return client.models.wait_ready(
            model.id, on_poll=lambda seen: status.update(f"Importing {seen.id} ({size(seen.bytes)})")
        )


def name_and_source(name: str, model_id: str | None = None) -> tuple[str, str | None]:
    """What is registered under which name: a file or folder under its own name, a hub id under its last part."""
    path = Path(name).expanduser()
    if path.exists():
        return model_id or path.stem, str(path.resolve())
    wanted = model_id or name.rsplit("/", 1)[-1]
    return wanted, None if wanted == name else name


def _pull_here(name: str, model_id: str | None, problem: NoCredentials | Unreachable, *, as_json: bool) -> None:
    """Without a server: the same import in a process of its own, into this machine's home."""
    if problem.code not in {"no_credentials", "unreachable"} or importlib.util.find_spec("sqlalchemy") is None:
        raise problem
    if not as_json:
        say("No server answers; importing on this machine, for the next `opensloth up`.")
    wanted, source = name_and_source(name, model_id)
    pull_command = ["opensloth.models.pull", wanted, *([source] if source else [])]
    for command in (["migrations"], pull_command):
        done = subprocess.run([sys.executable, "-P", "-m", *command], stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise typer.Exit(exit_codes.FAILED)
    if as_json:
        print_json({"id": wanted, "object": "model", "status": "ready"})


def _tell_ready(model: Model) -> None:
    say(f"{model.id} is {model.status or 'ready'} ({size(model.bytes)}).")


def _text(name: str, value: object) -> str:
    if name == "bytes" and isinstance(value, int):
        return size(value)
    return ago(value) if name == "created" and isinstance(value, int) else str(value)
