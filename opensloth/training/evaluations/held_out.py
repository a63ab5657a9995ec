"""The rows that an evaluation asks both models, each with its prompt and what graders read of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opensloth.datasets.canonical import CanonicalRows, FileRows
from opensloth.datasets.split import with_eval_split
from opensloth.errors import InvalidDataset
from opensloth.training.evaluations.spec import EvaluationRun


@dataclass(frozen=True)
class HeldOut:
    """A row: its number in the file (from 1), `asked` as the tokenizer takes it, and the `item` of graders."""

    number: int
    asked: dict[str, Any]
    item: dict[str, Any]


def held_out_rows(spec: EvaluationRun) -> list[HeldOut]:
    """At most `spec.rows` rows, evenly from the whole; raises InvalidDataset for a bad one, and for none.

    What is kept while the file is read has at most twice as many rows, whatever the file has.
    """
    rows, convert = _source(spec).raw()
    kept: list[tuple[int, Mapping[str, Any]]] = []
    every = 1
    for place, numbered in enumerate(rows):
        if place % every:
            continue
        kept.append(numbered)
        if len(kept) >= 2 * spec.rows:
            kept, every = kept[::2], 2 * every
    if not kept:
        raise InvalidDataset(f"{spec.dataset.name} has no rows to evaluate on")
    count = min(spec.rows, len(kept))
    chosen = [kept[place * len(kept) // count] for place in range(count)]
    return [_held_out(spec, number, raw, row) for number, raw in chosen for row in convert([raw], [number])]


def _source(spec: EvaluationRun) -> Any:
    ref = spec.dataset
    file = FileRows(ref.path, ref.container, ref.name, ref.sha256)
    rows = CanonicalRows(file, spec.training_type, spec.dataset_form)
    return rows if spec.eval_split is None else with_eval_split(rows, spec.eval_split, spec.split_seed)["eval"]


def _held_out(spec: EvaluationRun, number: int, raw: Mapping[str, Any], row: dict[str, Any]) -> HeldOut:
    options: dict[str, Any] = {name: row[name] for name in ("tools", "chat_template_kwargs") if name in row}
    if spec.judge == "preferences":
        return HeldOut(number, {**options, **{name: row[name] for name in ("prompt", "chosen", "rejected")}}, dict(raw))
    prompt, reference = _split(row, number)
    item = {**row, **raw, "prompt": prompt}
    if reference is not None:
        item.setdefault("reference", reference)
    return HeldOut(number, {**options, "prompt": prompt}, item)


def _split(row: Mapping[str, Any], number: int) -> tuple[Any, str | None]:
    """What is asked, and the answer that the row has for it: the last one of a conversation."""
    if row.get("prompt") is not None:
        answer = next((row[name] for name in ("completion", "chosen") if row.get(name) is not None), None)
        return row["prompt"], _text(answer)
    messages = row.get("messages")
    if isinstance(messages, list) and len(messages) > 1:
        return messages[:-1], _text(messages[-1:])
    raise InvalidDataset(f"row {number} has no prompt that could be answered; evaluate on messages, or on prompts")


def _text(answer: Any) -> str | None:
    if isinstance(answer, str) or answer is None:
        return answer
    said: Iterable[Any] = (message.get("content") for message in answer if message.get("role") == "assistant")
    texts = [text for text in said if isinstance(text, str)]
    return texts[-1] if texts else None
