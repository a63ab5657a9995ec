"""Rewards that compare text with text: `exact_match` and `regex`."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from opensloth.rewards.columns import texts_of
from opensloth.rewards.failures import RowProblem
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Column, Params, Row

MAX_PATTERN = 4000
_NO_PUNCTUATION = {ord(sign): None for sign in string.punctuation}


class ExactMatchParams(Params):
    """How two texts are made comparable."""

    column: Column = "answer"
    """The column with the expected text; a list of texts means that any of them is right."""
    part: Literal["all", "last_line"] = "all"
    """What of the completion is compared."""
    ignore_case: bool = False
    """Compare without case."""
    ignore_whitespace: bool = True
    """Trim, and count any run of whitespace as one space."""
    ignore_punctuation: bool = False
    """Leave out ASCII punctuation."""


def normalise(text: str, params: ExactMatchParams) -> str:
    """`text` as `params` would have it compared."""
    if params.ignore_case:
        text = text.casefold()
    if params.ignore_punctuation:
        text = text.translate(_NO_PUNCTUATION)
    return " ".join(text.split()) if params.ignore_whitespace else text


def score_exact_match(params: ExactMatchParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """1 where the completion is one of the expected texts, else 0."""
    return [_exact(params, completion, row) for completion, row in zip(completions, rows, strict=True)]


def _exact(params: ExactMatchParams, completion: str, row: Row) -> float:
    if params.part == "last_line":
        completion = (completion.rstrip().splitlines() or [""])[-1]
    expected = {normalise(text, params) for text in texts_of(row, params.column)}
    return float(normalise(completion, params) in expected)


def text_column_problem(params: ExactMatchParams, row: Row) -> str | None:
    """What keeps `row` from being compared with."""
    try:
        texts_of(row, params.column)
    except RowProblem as problem:
        return str(problem)
    return None


class RegexParams(Params):
    """A pattern in Python's syntax."""

    pattern: str = Field(min_length=1, max_length=MAX_PATTERN)
    """The regular expression, in the syntax of Python's `re`."""
    mode: Literal["search", "match", "fullmatch"] = "search"
    """Anywhere in the completion, from its beginning, or all of it."""
    ignore_case: bool = False
    """Match without case."""
    multiline: bool = False
    """`^` and `$` match at each line."""
    dotall: bool = False
    """`.` matches a line break too."""
    invert: bool = False
    """Reward completions that do not match."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"no regular expression that Python can read: {error}") from None
        return pattern


def score_regex(params: RegexParams, completions: Sequence[str], _rows: Sequence[Row]) -> list[float]:
    """1 where the pattern matches (or does not, with `invert`), else 0."""
    flags = (
        (re.IGNORECASE if params.ignore_case else 0)
        | (re.MULTILINE if params.multiline else 0)
        | (re.DOTALL if params.dotall else 0)
    )
    pattern = re.compile(params.pattern, flags)
    test = {"search": pattern.search, "match": pattern.match, "fullmatch": pattern.fullmatch}[params.mode]
    return [float((test(completion) is None) == params.invert) for completion in completions]


register_reward(
    Reward(
        name="exact_match",
        description="1 if the completion is the expected text, else 0.",
        params=ExactMatchParams,
        score=score_exact_match,
        columns=lambda params: (params.column,),
        check_row=text_column_problem,
    )
)
register_reward(
    Reward(
        name="regex",
        description="1 if the completion matches a regular expression, else 0; a pattern that takes seconds on one "
        "completion fails the job.",
        params=RegexParams,
        score=score_regex,
        item_timeout_s=2.0,
    )
)
