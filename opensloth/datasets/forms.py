"""The forms that a dataset row may have, and which training method takes which: one entry a method in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opensloth.datasets.messages import Problem, answer, kind, open_conversation, text_problem, whole_conversation

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """One way to write a row: the columns that it must have, and what is wrong with a row that has them (or None)."""

    name: str
    columns: tuple[str, ...]
    check: Callable[[Row], Problem | None]

    def fits(self, row: Row) -> bool:
        """Whether `row` has the columns of this form."""
        return all(row.get(column) is not None for column in self.columns)


def check_messages(row: Row) -> Problem | None:
    """`messages`: one whole conversation."""
    return whole_conversation(row.get("messages"), "messages")


def check_prompt_completion(row: Row) -> Problem | None:
    """`prompt` and `completion`, both text or both messages."""
    return _prompt(row, "completion") or _reply(row, "completion")


def check_text(row: Row) -> Problem | None:
    """`text`, trained on as it stands."""
    return text_problem(row.get("text"), "text")


def check_input_ids(row: Row) -> Problem | None:
    """`input_ids` with optional `labels` (-100 is not trained on) and `attention_mask` of the same length."""
    ids = row.get("input_ids")
    if not _whole_numbers(ids) or not ids:
        return Problem("input_ids", "`input_ids` must be a list of token ids (whole numbers), not empty")
    if min(ids) < 0:
        return Problem("input_ids", "`input_ids` has a negative token id")
    for column, least in (("labels", -100), ("attention_mask", 0)):
        values = row.get(column)
        if values is None:
            continue
        if not _whole_numbers(values) or len(values) != len(ids):
            return Problem(column, f"`{column}` must be a list of {len(ids)} whole numbers, as long as `input_ids`")
        if min(values) < least:
            return Problem(column, f"`{column}` has a value below {least}")
    labels = row.get("labels")
    if labels is not None and max(labels) < 0:
        return Problem("labels", "every label is -100, so that nothing of this row is trained on; remove the row")
    return None


def check_preference(row: Row) -> Problem | None:
    """`prompt`, `chosen` and `rejected`, all text or all messages; the two answers must differ."""
    problem = _prompt(row, "chosen") or _reply(row, "chosen") or _reply(row, "rejected")
    if problem:
        return problem
    chosen, rejected = row["chosen"], row["rejected"]
    same = chosen.strip() == rejected.strip() if isinstance(chosen, str) else chosen == rejected
    if same:
        return Problem("rejected", "`chosen` and `rejected` are identical, which teaches nothing; remove the row")
    return None


def check_labelled(row: Row) -> Problem | None:
    """`prompt` and `completion`, both text or both messages, and whether the completion is wanted: `label`."""
    label = row.get("label")
    if not isinstance(label, bool):
        message = "`label` must be true (wanted) or false (unwanted)"
        text = "; write it without quotes, in JSONL, JSON or Parquet: CSV knows only text"
        return Problem("label", f"{message} and is {kind(label)}{text if isinstance(label, str) else ''}")
    return check_prompt_completion(row)


def check_prompt(row: Row) -> Problem | None:
    """`prompt`, text or messages that wait for an answer; what other columns there are is for the rewards."""
    prompt = row.get("prompt")
    return open_conversation(prompt, "prompt") if isinstance(prompt, list) else text_problem(prompt, "prompt")


MESSAGES = Form("messages", ("messages",), check_messages)
PROMPT_COMPLETION = Form("prompt_completion", ("prompt", "completion"), check_prompt_completion)
TEXT = Form("text", ("text",), check_text)
INPUT_IDS = Form("input_ids", ("input_ids",), check_input_ids)
PREFERENCE = Form("preference", ("prompt", "chosen", "rejected"), check_preference)
LABELLED = Form("labelled", ("prompt", "completion", "label"), check_labelled)
PROMPT = Form("prompt", ("prompt",), check_prompt)

METHODS: dict[str, tuple[Form, ...]] = {
    "sft": (INPUT_IDS, MESSAGES, PROMPT_COMPLETION, TEXT),
    "dpo": (PREFERENCE,),
    "kto": (LABELLED,),
    "orpo": (PREFERENCE,),
    "grpo": (PROMPT,),
}
"""The forms that each training type takes, the one that wins first where a row has the columns of several."""


def form_for(training_type: str, row: Row) -> Form | None:
    """The form in which `row` serves `training_type`, or None."""
    return next((form for form in METHODS[training_type] if form.fits(row)), None)


def detect(row: Row) -> str | None:
    """The name of the form of `row`, the more particular one first (`preference` before `prompt_completion`)."""
    forms = dict.fromkeys(form for forms in METHODS.values() for form in forms)
    candidates = sorted(forms, key=lambda form: -len(form.columns))
    return next((form.name for form in candidates if form.fits(row)), None)


def needed_columns(training_type: str) -> str:
    """The columns that `training_type` can use, in words."""
    return ", or ".join(" + ".join(f"`{column}`" for column in form.columns) for form in METHODS[training_type])


def known_columns() -> frozenset[str]:
    """Every column that some check reads."""
    required = {column for forms in METHODS.values() for form in forms for column in form.columns}
    return frozenset(required | {"labels", "attention_mask"})


def _prompt(row: Row, beside: str) -> Problem | None:
    prompt, reply = row.get("prompt"), row.get(beside)
    if (isinstance(prompt, str) and isinstance(reply, list)) or (isinstance(prompt, list) and isinstance(reply, str)):
        return Problem("prompt", f"`prompt` and `{beside}` must both be text or both be lists of messages")
    if isinstance(prompt, list):
        return open_conversation(prompt, "prompt")
    return text_problem(prompt, "prompt")


def _reply(row: Row, column: str) -> Problem | None:
    reply = row.get(column)
    if isinstance(row.get("prompt"), list):
        return answer(reply, column)
    return text_problem(reply, column)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)
