"""The forms that a dataset row may have, and which training method takes which: one entry a method in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opensloth.datasets import convert, foreign
from opensloth.datasets.convert import Converter, plain, to_messages
from opensloth.datasets.messages import Problem, answer, kind, open_conversation, text_problem
from opensloth.errors import FieldError, InvalidInput

Row = Mapping[str, Any]
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class Form:
    """One way to write a row: the columns that it must have, and what is wrong with a row that has them (or None)."""

    name: str
    columns: tuple[str, ...]
    check: Callable[[Row], Problem | None]
    convert: Converter = plain
    """A row that passed the check to what is trained on: messages, text, or token ids."""
    optional: tuple[str, ...] = ()
    """Further columns that the check or the conversion reads."""
    when: Callable[[Row], bool] | None = None
    """What else tells this form from another with the same columns."""

    def fits(self, row: Row) -> bool:
        """Whether `row` has the columns of this form."""
        has = all(row.get(column) is not None for column in self.columns)
        return has and (self.when is None or self.when(row))

    def calls_tool(self, row: Row) -> bool:
        """Whether a message in these columns calls a tool."""
        return any(_calls_tool(message) for column in self.columns for message in _messages_in(row.get(column)))


def _messages_in(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        value = value.get("messages", [value])
    return value if isinstance(value, list) and value and isinstance(value[0], dict) else ()


def _calls_tool(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    calls = message.get("tool_calls") or message.get("function_call")
    return bool(calls) or "function_call" in (message.get("role"), message.get("from"))


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
    if max(ids) > LARGEST_ID:
        return Problem("input_ids", f"`input_ids` has a token id above {LARGEST_ID:,}, which no tokenizer has")
    for column, least in (("labels", -100), ("attention_mask", 0)):
        values = row.get(column)
        if values is None:
            continue
        if not _whole_numbers(values) or len(values) != len(ids):
            return Problem(column, f"`{column}` must be a list of {len(ids)} whole numbers, as long as `input_ids`")
        if min(values) < least:
            return Problem(column, f"`{column}` has a value below {least}")
        if max(values) > LARGEST_ID:
            return Problem(column, f"`{column}` has a value above {LARGEST_ID:,}")
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
    return foreign.identical("chosen", "rejected") if same else None


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
    if isinstance(prompt, list):
        return open_conversation(to_messages(prompt), "prompt") or foreign.check_tools(row)
    return text_problem(prompt, "prompt")


_TOOLS = ("tools", "functions", "parallel_tool_calls", "chat_template_kwargs")

MESSAGES = Form("messages", ("messages",), foreign.check_chat, convert.chat, _TOOLS)
SHAREGPT = Form("sharegpt", ("conversations",), foreign.check_sharegpt, convert.sharegpt, (*_TOOLS, "system"))
ALPACA = Form("alpaca", ("instruction", "output"), foreign.check_alpaca, convert.alpaca, ("input", "system"))
PROMPT_COMPLETION = Form(
    "prompt_completion", ("prompt", "completion"), check_prompt_completion, convert.prompt_messages, _TOOLS
)
TEXT = Form("text", ("text",), check_text)
INPUT_IDS = Form("input_ids", ("input_ids",), check_input_ids, optional=("labels", "attention_mask"))
PREFERENCE = Form("preference", ("prompt", "chosen", "rejected"), check_preference, convert.prompt_messages, _TOOLS)
WHOLE_PREFERENCE = Form(
    "whole_preference",
    ("chosen", "rejected"),
    foreign.check_whole_preference,
    convert.whole_preference,
    _TOOLS,
    foreign.is_whole_conversation,
)
SHAREGPT_PREFERENCE = Form(
    "sharegpt_preference",
    ("conversations", "chosen", "rejected"),
    foreign.check_sharegpt_preference,
    convert.sharegpt_preference,
    (*_TOOLS, "system"),
)
OPENAI_PREFERENCE = Form(
    "openai_preference",
    ("input", "preferred_output", "non_preferred_output"),
    foreign.check_openai_preference,
    convert.openai_preference,
    when=foreign.is_openai_input,
)

PREFERENCES = (OPENAI_PREFERENCE, SHAREGPT_PREFERENCE, WHOLE_PREFERENCE, PREFERENCE)
LABELLED = Form("labelled", ("prompt", "completion", "label"), check_labelled, convert.prompt_messages, _TOOLS)
PROMPT = Form("prompt", ("prompt",), check_prompt, convert.prompt_messages, _TOOLS)
OPEN_MESSAGES = Form(
    "open_messages", ("messages",), foreign.check_open_chat, convert.open_chat, _TOOLS, foreign.waits_for_answer
)

METHODS: dict[str, tuple[Form, ...]] = {
    "sft": (INPUT_IDS, MESSAGES, SHAREGPT, PROMPT_COMPLETION, ALPACA, TEXT),
    "dpo": PREFERENCES,
    "kto": (LABELLED,),
    "orpo": PREFERENCES,
    "grpo": (PROMPT, OPEN_MESSAGES),
}
"""The forms that each training type takes, the one that wins first where a row has the columns of several."""


def choose_form(training_type: str, rows: Sequence[Row]) -> Form | None:
    """The form in which a file that begins with `rows` serves `training_type`: the one that most of them have."""
    best, most = None, 0
    for form in METHODS[training_type]:
        count = sum(form.fits(row) for row in rows)
        if count > most:
            best, most = form, count
    return best


def form_named(training_type: str, name: str, field: str = "opensloth_config.dataset_form") -> Form:
    """The form of that name; raises InvalidInput that names those there are."""
    forms = {form.name: form for form in METHODS.get(training_type, ())}
    if name in forms:
        return forms[name]
    message = f"{training_type} has no form {name[:64]!r}; there are {', '.join(forms) or 'none'}"
    raise InvalidInput(message, fields=[FieldError(field, message, "unknown_form")])


def detect(row: Row) -> str | None:
    """The name of the form of `row`, the more particular one first (`preference` before `prompt_completion`)."""
    forms = dict.fromkeys(form for forms in METHODS.values() for form in forms)
    candidates = sorted(forms, key=lambda form: (form.when is None, -len(form.columns)))
    return next((form.name for form in candidates if form.fits(row)), None)


def needed_columns(training_type: str) -> str:
    """The columns that `training_type` can use, in words."""
    return ", or ".join(" + ".join(f"`{column}`" for column in form.columns) for form in METHODS[training_type])


def known_columns() -> frozenset[str]:
    """Every column that some check reads."""
    return frozenset(
        column for forms in METHODS.values() for form in forms for column in (*form.columns, *form.optional)
    )


def _prompt(row: Row, beside: str) -> Problem | None:
    prompt, reply = row.get("prompt"), row.get(beside)
    if (isinstance(prompt, str) and isinstance(reply, list)) or (isinstance(prompt, list) and isinstance(reply, str)):
        return Problem("prompt", f"`prompt` and `{beside}` must both be text or both be lists of messages")
    if isinstance(prompt, list):
        return open_conversation(to_messages(prompt), "prompt") or foreign.check_tools(row)
    return text_problem(prompt, "prompt")


def _reply(row: Row, column: str) -> Problem | None:
    reply = row.get(column)
    if isinstance(row.get("prompt"), list):
        return answer(to_messages(reply), column)
    return text_problem(reply, column)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)
