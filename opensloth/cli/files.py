"""`opensloth files`: datasets on the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opensloth.cli import exit_codes
from opensloth.cli.formats import ago, size
from opensloth.cli.output import Json, err, out, print_json, say, table
from opensloth.cli.preview import preview_lines
from opensloth.cli.submit import upload_with_bar
from opensloth.client import Client, File

files = typer.Typer(help="Upload, fetch, list, read and delete datasets.", no_args_is_help=True)

FileId = Annotated[str, typer.Argument(metavar="FILE", help="file-...")]


@files.command("upload")
def upload(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="JSONL, JSON, CSV or Parquet.")],
    as_json: Json = False,
) -> None:
    """Upload files; content that the server has already is not sent again."""
    with Client() as client:
        uploaded = [client.files.get(upload_with_bar(client, path, quiet=as_json, console=err())) for path in paths]
    if as_json:
        print_json([file.as_json() for file in uploaded])
    else:
        for file in uploaded:
            out().print(file.id, markup=False, highlight=False)
    broken = [file for file in uploaded if file.status == "error"]
    for file in broken:
        say(f"{file.filename}: {file.status_details or 'cannot be used'}", style="red")
    if broken:
        raise typer.Exit(exit_codes.FAILED)


@files.command("pull")
def pull(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="org/name, or 'org/name@revision:config[split]'.")],
    secret: Annotated[str | None, typer.Option(help="The secret with the token for a gated or private one.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a dataset of the hub, to look at it; a job may name it itself."""
    with Client() as client:
        if not as_json:
            say(f"Fetching {dataset} ...")
        file = client.files.pull(dataset, secret=secret)
    if as_json:
        print_json(file.as_json())
    else:
        out().print(file.id, markup=False, highlight=False)
        say(f"{file.filename}, {size(file.bytes)}, commit {(file.commit or '-')[:12]}")
    if file.status == "error":
        say(f"{file.filename}: {file.status_details or 'cannot be used'}", style="red")
        raise typer.Exit(exit_codes.FAILED)


@files.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 50, as_json: Json = False
) -> None:
    """List your files, newest first."""
    with Client() as client:
        found = list(client.files.list(limit=limit))
    if as_json:
        print_json([file.as_json() for file in found])
        return
    out().print(table(["ID", "Name", "Size", "Status", "Uploaded"], [_row(file) for file in found], right=["Size"]))


@files.command("show")
def show_file(file_id: FileId, as_json: Json = False) -> None:
    """Show one file."""
    with Client() as client:
        found = client.files.get(file_id)
    if as_json:
        print_json(found.as_json())
        return
    out().print(table(["ID", "Name", "Size", "Status", "Uploaded"], [_row(found)], right=["Size"]))
    if found.status_details:
        say(found.status_details)


@files.command("preview")
def preview_file(
    file_id: FileId,
    model: Annotated[str | None, typer.Option(help="Whose tokenizer and chat template to use.")] = None,
    training_type: Annotated[str | None, typer.Option(help="sft, dpo, ...; the first it serves if not given.")] = None,
    form: Annotated[str | None, typer.Option(help="Read the rows in this form, as dataset_form does.")] = None,
    loss_on: Annotated[str | None, typer.Option(help="assistant, completion or all.")] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Count the rows of more tokens.")] = None,
    eval_file: Annotated[str | None, typer.Option(help="Look for the rows of this file.")] = None,
    rows: Annotated[int, typer.Option(min=0, max=20, help="How many rows to show.")] = 3,
    offset: Annotated[int, typer.Option(min=0, help="Rows to skip.")] = 0,
    as_json: Json = False,
) -> None:
    """Show rows as the model will see them, what is trained on, and the file's statistics."""
    with Client() as client:
        found = client.files.preview(
            file_id,
            model=model,
            training_type=training_type,
            form=form,
            loss_on=loss_on,
            max_length=max_length,
            eval_file=eval_file,
            rows=rows,
            offset=offset,
        )
    if as_json:
        print_json(found)
        return
    console = out()
    for line in preview_lines(found, colour=console.is_terminal and not console.no_color):
        console.print(line, highlight=False, soft_wrap=True)


@files.command("delete")
def delete_file(file_id: FileId, as_json: Json = False) -> None:
    """Delete a file."""
    with Client() as client:
        client.files.delete(file_id)
    if as_json:
        print_json({"id": file_id, "deleted": True})
    else:
        say(f"{file_id} is deleted.")


@files.command("download")
def download_file(
    file_id: FileId,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: the file's own name, here.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a file's content."""
    with Client() as client:
        name = Path(client.files.get(file_id).filename).name or file_id
        written = client.files.download(file_id, output or Path(name))
    if as_json:
        print_json({"id": file_id, "path": str(written)})
    else:
        say(f"Wrote {written}")


def _row(file: File) -> tuple[str, str, str, str, str]:
    return file.id, file.filename, size(file.bytes), file.status or "-", ago(file.created_at)
