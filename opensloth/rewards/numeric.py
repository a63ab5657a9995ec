"""The reward `numeric_answer`: the completion's last answer against the expected number or expression."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from opensloth.rewards.columns import as_text, value_of
from opensloth.rewards.failures import ItemHopeless, RowProblem
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Column, Params, Row

MAX_EXPRESSION = 1000
MAX_NUMBER = 300
LAST_BOXES = 8
_GSM8K = re.compile(r"####[ \t]*([^\n]{1,1000})")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]{0,99}(?:\.\d{0,99})?|\.\d{1,99})(?:[eE][-+]?\d{1,3})?(?:/\d{1,99})?")
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\s*\{([^{}]{1,99})\}\s*\{([^{}]{1,99})\}")
_DRESS = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{[^{}]*\}|\\[,;:! ]|\\left|\\right|[$\s%€£]|\\[%$]")


class NumericAnswerParams(Params):
    """Where the right answer is, and how close is close enough."""

    column: Column = "answer"
    """The column with the right answer: a number, or text that ends in one (`... #### 42`, `\\boxed{42}`)."""
    mode: Literal["number", "math"] = "number"
    """Compare as numbers, or as mathematical expressions in LaTeX (sets, roots, polynomials) by math-verify."""
    tolerance: float = Field(default=1e-6, ge=0, le=1e6)
    """How far apart two numbers may be, relative to the larger or absolute, a plain number."""
    last_number: bool = True
    """Take the last number of a completion that has neither `####` nor `\\boxed{}`."""


def marked_answer(text: str) -> str | None:
    """What stands in the last `\\boxed{...}` or after the last `####`, whichever comes later; None without either."""
    boxes = list(_BOXED.finditer(text))
    hashes = list(_GSM8K.finditer(text))
    if hashes and (not boxes or hashes[-1].start() > boxes[-1].start()):
        return hashes[-1].group(1).strip()
    for box in reversed(boxes[-LAST_BOXES:]):
        inside = _braced(text, box.end())
        if inside is not None:
            return inside.strip()
    return hashes[-1].group(1).strip() if hashes else None


def _braced(text: str, start: int) -> str | None:
    depth = 1
    for place in range(start, min(len(text), start + MAX_EXPRESSION)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start:place]
    return None


def read_number(text: str) -> float | None:
    """The number that `text` is (`1,234.5`, `$5`, `3/4`, `\\frac{3}{4}`, `50%` as 50), or None."""
    if len(text) > MAX_NUMBER:
        return None
    plain = _DRESS.sub("", text.replace("−", "-").replace("{,}", ",")).rstrip(".")
    fraction = _FRACTION.fullmatch(plain)
    if fraction:
        sign, above, below = fraction.groups()
        plain = f"{sign}{above}/{below}"
    if not _NUMBER.fullmatch(plain):
        return None
    above, _, below = plain.replace(",", "").partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def last_number(text: str) -> float | None:
    """The last number in `text`, or None."""
    found = None
    for found in _NUMBER.finditer(text.replace("−", "-")):  # noqa: B007 - the last one is wanted
        pass
    return None if found is None else read_number(found.group().rstrip(",."))


def expected_number(value: Any, column: str) -> float:
    """The number in a row's column; raises RowProblem where there is none."""
    text = as_text(value, column)
    marked = marked_answer(text)
    number = read_number(text if marked is None else marked)
    if number is None and marked is None:
        number = last_number(text)
    if number is None:
        raise RowProblem(f"column `{column}` holds no number: {text[-60:]!r}")
    return number


def score_numeric(params: NumericAnswerParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """1 where the completion's answer equals the row's, else 0."""
    score = _score_math if params.mode == "math" else _score_number
    return [score(params, *pair) for pair in zip(completions, rows, strict=True)]


def _score_number(params: NumericAnswerParams, completion: str, row: Row) -> float:
    expected = expected_number(value_of(row, params.column), params.column)
    marked = marked_answer(completion)
    if marked is not None:
        found = read_number(marked)
        found = last_number(marked) if found is None else found
    else:
        found = last_number(completion) if params.last_number else None
    return float(found is not None and _close(found, expected, params.tolerance))


def _close(a: float, b: float, tolerance: float) -> bool:
    return math.isclose(a, b, rel_tol=min(tolerance, 1.0), abs_tol=tolerance)


def _score_math(params: NumericAnswerParams, completion: str, row: Row) -> float:
    gold_text = as_text(value_of(row, params.column), params.column)
    gold = marked_answer(gold_text) or gold_text.strip().strip("$")
    found = marked_answer(completion)
    if found is None:
        number = last_number(completion) if params.last_number else None
        found = None if number is None else repr(number)
    if found is None or len(found) > MAX_EXPRESSION:
        return 0.0
    if found == gold:
        return 1.0
    numbers = read_number(gold), read_number(found)
    if numbers[0] is not None and numbers[1] is not None:
        return float(_close(numbers[0], numbers[1], params.tolerance))
    return float(_same_expression(gold, found, params.column))


def _same_expression(gold: str, found: str, column: str) -> bool:
    # LaTeX only: math-verify's plain expressions go through sympy's parse_expr, which evaluates Python.
    from math_verify import LatexExtractionConfig, parse, verify

    read = [LatexExtractionConfig()]
    right = parse(f"${gold}$", read, parsing_timeout=None)
    if not right:
        raise RowProblem(f"column `{column}` holds nothing that reads as mathematics: {gold[-60:]!r}")
    try:
        return bool(verify(right, parse(f"${found}$", read, parsing_timeout=None), timeout_seconds=None))
    except (MemoryError, RecursionError) as error:
        raise ItemHopeless(type(error).__name__) from None


def numeric_problem(params: NumericAnswerParams, row: Row) -> str | None:
    """What keeps `row`'s answer from being read; expressions are read in training only."""
    try:
        value = value_of(row, params.column)
        if params.mode == "math":
            as_text(value, params.column)
        else:
            expected_number(value, params.column)
    except RowProblem as problem:
        return str(problem)
    return None


def prepare_math(params: NumericAnswerParams) -> None:
    """Import math-verify (a second or two) where it will be used."""
    if params.mode != "math":
        return
    import math_verify  # noqa: F401

    # Its timeouts are signals, which end no long multiplication; the helper process is killed instead.
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


register_reward(
    Reward(
        name="numeric_answer",
        description="1 if the completion's answer (after `####`, in `\\boxed{}`, or its last number) equals the "
        "expected one, else 0; an expression that takes seconds to compare is not equal.",
        params=NumericAnswerParams,
        score=score_numeric,
        columns=lambda params: (params.column,),
        check_row=numeric_problem,
        prepare=prepare_math,
        item_timeout_s=3.0,
        hopeless_is_zero=True,
    )
)
