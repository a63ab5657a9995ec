"""The `opensloth` command: every group in one place."""

from __future__ import annotations

from collections.abc import Callable

import typer

from opensloth import __version__
from opensloth.cli import backup, control, exit_codes, jobs, login, results
from opensloth.cli.chat import chat
from opensloth.cli.devices import devices
from opensloth.cli.diff import diff
from opensloth.cli.estimate import estimate
from opensloth.cli.evaluate import evaluate
from opensloth.cli.export import export
from opensloth.cli.files import files
from opensloth.cli.gc import gc
from opensloth.cli.lease import lease
from opensloth.cli.models import models
from opensloth.cli.output import out
from opensloth.cli.people import audit, me, teams, users
from opensloth.cli.queue import queue
from opensloth.cli.rewards import rewards
from opensloth.cli.secrets import secrets
from opensloth.cli.simulate import simulate
from opensloth.cli.submit import submit
from opensloth.cli.top import top
from opensloth.cli.up import up
from opensloth.cli.webhooks import webhooks

app = typer.Typer(
    name="opensloth",
    help="Post fine-tuning jobs to a shared GPU box, watch them live, keep what comes out.",
    epilog=exit_codes.EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SERVER, JOBS, THINGS, PEOPLE = "Server", "Jobs", "Datasets, models, keys", "People"

app.command(rich_help_panel=SERVER)(up)
app.command(rich_help_panel=SERVER)(login.login)
app.command(rich_help_panel=SERVER)(backup.backup)
app.command(rich_help_panel=SERVER)(backup.restore)
app.command(rich_help_panel=SERVER)(simulate)
app.command(rich_help_panel=JOBS)(submit)
app.command(rich_help_panel=JOBS)(estimate)
app.command(rich_help_panel=JOBS)(jobs.jobs)
app.command(rich_help_panel=JOBS)(queue)
app.command(rich_help_panel=JOBS)(top)
app.command(rich_help_panel=SERVER)(gc)
app.command(rich_help_panel=JOBS)(lease)
_ON_ONE_JOB: tuple[Callable[..., None], ...] = (
    *(jobs.show, jobs.watch, jobs.logs),
    *(control.cancel, control.pause, control.resume, control.retry),
    *(control.move, control.priority, control.keep, control.delete),
    *(results.artifacts, results.download, results.script),
)
for _command in _ON_ONE_JOB:
    app.command(rich_help_panel=JOBS)(_command)
app.command(rich_help_panel=JOBS)(diff)
app.command(rich_help_panel=THINGS)(rewards)
app.command(rich_help_panel=THINGS)(chat)
app.command(rich_help_panel=JOBS)(export)
app.command(rich_help_panel=JOBS)(evaluate)
app.add_typer(devices, name="devices", rich_help_panel=SERVER)
app.add_typer(files, name="files", rich_help_panel=THINGS)
app.add_typer(models, name="models", rich_help_panel=THINGS)
app.add_typer(login.keys, name="key", rich_help_panel=THINGS)
app.add_typer(secrets, name="secrets", rich_help_panel=THINGS)
app.add_typer(webhooks, name="webhooks", rich_help_panel=THINGS)
app.command(rich_help_panel=PEOPLE)(me)
app.add_typer(users, name="users", rich_help_panel=PEOPLE)
app.add_typer(teams, name="teams", rich_help_panel=PEOPLE)
app.command(rich_help_panel=PEOPLE)(audit)


@app.callback(invoke_without_command=False)
def root(
    version: bool = typer.Option(
        False, "--version", help="Show the version.", is_eager=True, callback=lambda v: _version(v)
    ),
) -> None:
    """Post fine-tuning jobs to a shared GPU box, watch them live, keep what comes out."""


def _version(asked: bool) -> None:
    if asked:
        out().print(f"opensloth {__version__}", highlight=False)
        raise typer.Exit()
