"""The preview of a dataset file for people: trained tokens in green, or in brackets where there is no colour."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.text import Text

TRAINED = ("bold green", "bold cyan")
"""Taken in turn, so that one token can be told from the next."""
SEEN = ("dim", "")


def preview_lines(preview: dict[str, Any], *, colour: bool) -> Iterator[Text]:
    """The lines to print."""
    rows = f"{preview['total_rows']:,} rows of the form {preview['form']}"
    yield Text(f"{preview['file']}: {rows}, as {preview['training_type']}")
    if preview["model"]:
        marked = "green and cyan" if colour else "within [[ ]]"
        yield Text(f"tokens of {preview['model']}; those that are trained on are {marked}", style="dim")
    for row in preview["rows"]:
        yield Text()
        yield from _row(row, colour)
    yield Text()
    for name, value in _figures(preview["statistics"], preview["total_rows"]):
        yield Text(f"{name:<18}", style="bold") + Text(value, style="none")


def _row(row: dict[str, Any], colour: bool) -> Iterator[Text]:
    head = f"row {row['row']}"
    if row["tokens"] is not None:
        head += f": {row['tokens']:,} tokens" + (", too long" if row["over_length"] else "")
    yield Text(head, style="bold red" if row["over_length"] else "bold")
    if not row["parts"]:
        yield from (Text(f"  {name}: {_short(value)}") for name, value in row["content"].items())
    for part in row["parts"]:
        yield Text(f"  {part['name']}: {part['tokens']:,} tokens, {part['trained_tokens']:,} trained on", style="dim")
        yield _tokens(part, colour)


def _tokens(part: dict[str, Any], colour: bool) -> Text:
    text = Text()
    pairs = list(zip(part["token_strings"], part["trained"], strict=True))
    if colour:
        for number, (token, trained) in enumerate(pairs):
            text.append(_printable(token), style=(TRAINED if trained else SEEN)[number % 2])
    else:
        for trained, run in groupby(pairs, key=lambda pair: pair[1]):
            joined = _printable("".join(token for token, _ in run))
            text.append(f"[[{joined}]]" if trained else joined)
    return text.append(" ...") if part["cut"] else text


def _figures(found: dict[str, Any], total: int) -> Iterator[tuple[str, str]]:
    if not found["complete"]:
        yield "of the first", f"{found['rows']:,} of {total:,} rows, for time"
    tokens = found["tokens"]
    if tokens:
        spread = ", ".join(f"{name} {tokens['percentiles'][name]:,}" for name in ("p50", "p90", "p99"))
        yield "tokens per row", f"{spread}, longest {tokens['max']:,}, mean {tokens['mean']:,}"
        yield "tokens", f"{tokens['total']:,}, {tokens['trained']:,} trained on"
        if tokens["rows_without_trained_tokens"]:
            yield "nothing to train", f"{tokens['rows_without_trained_tokens']:,} rows"
    if found["over_length"]:
        over = found["over_length"]
        yield "over-length", f"{over['rows']:,} rows of more than {over['max_length']:,} tokens{_examples(over)}"
    duplicates = found["duplicates"]
    pairs = [f"{pair['row']} = {pair['same_as']}" for pair in duplicates["examples"]]
    yield "duplicates", f"{duplicates['rows']:,} rows" + (f" ({', '.join(pairs)})" if pairs else "")
    if found["labels"]:
        yield "labels", ", ".join(f"{label} {count:,}" for label, count in found["labels"].items())
    if found["eval_overlap"]:
        shared = found["eval_overlap"]
        pairs = [f"{pair['row']} = {pair['eval_row']}" for pair in shared["examples"]]
        yield "also in eval file", f"{shared['rows']:,} rows" + (f" ({', '.join(pairs)})" if pairs else "")


def _examples(found: dict[str, Any]) -> str:
    return f" (rows {', '.join(map(str, found['examples']))})" if found["examples"] else ""


def _printable(text: str) -> str:
    """Text from a file must not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def _short(value: Any) -> str:
    text = _printable(value if isinstance(value, str) else str(value))
    return text if len(text) <= 500 else text[:500] + "..."
