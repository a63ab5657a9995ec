"""`opensloth chat MODEL`: talk to a model; `opensloth chat --compare base,ft:...`: answers side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel

from opensloth.cli import exit_codes
from opensloth.cli.failures import render_error
from opensloth.cli.output import Json, err, out, print_json, say
from opensloth.cli.references import job_id
from opensloth.client import Client, ClientError

_MOST = 8
"""Models side by side."""
_PER_S = 12


def chat(
    model: Annotated[
        str | None, typer.Argument(help="A base model, a job's id, a result (`ft:...`), a checkpoint, or `last`.")
    ] = None,
    question: Annotated[str | None, typer.Argument(help="Ask this and leave; else a conversation begins.")] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Ask these models the same and show the answers side by side.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is always the likeliest.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    as_json: Json = False,
) -> None:
    """Talk to a model. Ctrl-C ends an answer, Ctrl-D or an empty line the conversation.

    The first answer waits for the model's engine to start on a device; it is given back when nobody asks any more.
    """
    if compare is not None and model is not None and question is None:
        model, question = None, model
    models = [name.strip() for name in (compare or model or "").split(",") if name.strip()]
    if not models or (compare is not None and model is not None):
        raise typer.BadParameter("name one model, or several with --compare A,B")
    if len(models) > _MOST:
        raise typer.BadParameter(f"at most {_MOST} models side by side", param_hint="--compare")
    given = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    options = {name: value for name, value in given.items() if value is not None}
    with Client() as client:
        models = [job_id(client, name) if name == "last" else name for name in models]
        talk = Talk(client, models, system, options)
        once = question if question is not None else None if sys.stdin.isatty() else sys.stdin.read().strip()
        if once is not None:
            if not once:
                raise typer.BadParameter("there is no question")
            answers = talk.ask(once, show=not as_json)
            if as_json:
                print_json({"question": once, "answers": answers})
            raise typer.Exit(0 if all(answer["error"] is None for answer in answers) else exit_codes.FAILED)
        for line in _questions():
            talk.ask(line, show=True)


def _questions() -> Iterator[str]:
    """What a person types, until there is no more."""
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            say("")
            return
        if not line:
            return
        yield line


class Talk:
    """One conversation with each of several models."""

    def __init__(self, client: Client, models: Sequence[str], system: str | None, options: dict[str, Any]) -> None:
        self._client = client
        self._models = list(models)
        self._options = options
        first = [{"role": "system", "content": system}] if system else []
        self._said: list[list[dict[str, str]]] = [list(first) for _ in models]
        self._texts = [""] * len(self._models)
        self._errors: list[ClientError | None] = [None] * len(self._models)
        self._stopped = False
        self._waiting = err().status(f"Waiting for {escape(', '.join(models))}; a first answer waits for its engine")

    def ask(self, question: str, *, show: bool) -> list[dict[str, Any]]:
        """What each model answers; one that fails forgets the question."""
        self._texts = [""] * len(self._models)
        self._errors = [None] * len(self._models)
        self._stopped = False
        for said in self._said:
            said.append({"role": "user", "content": question})
        if len(self._models) == 1:
            self._alone(show)
        else:
            self._side_by_side(show)
        for said, text, error in zip(self._said, self._texts, self._errors, strict=True):
            if error is not None:
                said.pop()
            else:
                said.append({"role": "assistant", "content": text})
        return [
            {"model": name, "answer": text, "error": None if error is None else error.as_json()["error"]}
            for name, text, error in zip(self._models, self._texts, self._errors, strict=True)
        ]

    def _read(self, number: int, show: bool = False) -> None:
        try:
            for text in self._client.chat.stream(self._models[number], self._said[number], **self._options):
                self._texts[number] += text
                if show:
                    self._waiting.stop()
                    sys.stdout.write(text)
                    sys.stdout.flush()
                if self._stopped:
                    return
        except ClientError as error:
            self._errors[number] = error

    def _alone(self, show: bool) -> None:
        if show and err().is_terminal:
            self._waiting.start()
        try:
            self._read(0, show)
        except KeyboardInterrupt:
            self._stopped = True  # what came is kept
        finally:
            self._waiting.stop()
        if show and self._texts[0]:
            sys.stdout.write("\n")
        if show and self._errors[0] is not None:
            render_error(err(), self._errors[0])

    def _side_by_side(self, show: bool) -> None:
        console = out()
        live = show and console.is_terminal
        with ThreadPoolExecutor(len(self._models)) as pool:
            reading = [pool.submit(self._read, number) for number in range(len(self._models))]
            try:
                if live:
                    with Live(get_renderable=self._panels, console=console, refresh_per_second=_PER_S):
                        for one in reading:
                            one.result()
                for one in reading:
                    one.result()
            except KeyboardInterrupt:
                self._stopped = True
        if show and not live:
            for number, name in enumerate(self._models):
                console.print(f"== {name}", markup=False, highlight=False)
                console.print(self._shown(number), markup=False, highlight=False)

    def _shown(self, number: int) -> str:
        error = self._errors[number]
        return self._texts[number] if error is None else f"{self._texts[number]}\n{error.message}".strip()

    def _panels(self) -> Columns:
        width = max(24, out().width // len(self._models) - 1)
        panels = [
            Panel(self._shown(number) or "...", title=name, width=width) for number, name in enumerate(self._models)
        ]
        return Columns(panels, padding=(0, 0))
