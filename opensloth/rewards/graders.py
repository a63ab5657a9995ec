"""The rewards `string_check` and `text_similarity`, with the names and meaning of OpenAI's graders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from opensloth.rewards import similarity
from opensloth.rewards.failures import RowProblem, SampleProblem, zero_for
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Params, Row
from opensloth.rewards.templates import OUTPUT, columns_of, render, template_problem

MAX_TEMPLATE = 16_384
NOT_HERE = {
    "cosine": "compares embeddings, and this server has no embedding model",
    "meteor": "needs WordNet's synonyms, which are not here",
}
"""Measures of OpenAI's that are refused, and why."""


def _known_places(template: str) -> str:
    problem = template_problem(template)
    if problem:
        raise ValueError(problem)
    return template


Template = Annotated[str, Field(max_length=MAX_TEMPLATE), AfterValidator(_known_places)]
SAMPLE = "{{" + OUTPUT + "}}"


class StringCheckParams(Params):
    """What is compared with what, and how."""

    reference: Template
    """Template of the expected text, such as `{{item.answer}}`."""
    input: Template = SAMPLE
    """Template of the text that is checked; the completion."""
    operation: Literal["eq", "ne", "like", "ilike"] = "eq"
    """Equal; not equal; contains the reference; contains it whatever the case."""


class TextSimilarityParams(Params):
    """What is compared with what, and the measure."""

    reference: Template
    """Template of the text to resemble, such as `{{item.answer}}`."""
    input: Template = SAMPLE
    """Template of the text that is judged; the completion."""
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
    ] = "fuzzy_match"
    """The measure."""
    pass_threshold: float | None = Field(default=None, ge=0, le=1)
    """Where set, the score is 1 from this similarity on, else 0."""

    @field_validator("evaluation_metric", mode="before")
    @classmethod
    def _can_be_had(cls, metric: Any) -> Any:
        if isinstance(metric, str) and metric in NOT_HERE:
            raise ValueError(f"`{metric}` {NOT_HERE[metric]}; use one of {', '.join(similarity.MEASURES)}")
        return metric


def score_string_check(params: StringCheckParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """1 where the operation holds, else 0."""
    return [
        _scored(lambda a, b: float(_holds(params.operation, a, b)), params, *pair) for pair in _both(completions, rows)
    ]


def _holds(operation: str, text: str, reference: str) -> bool:
    match operation:
        case "eq":
            return text == reference
        case "ne":
            return text != reference
        case "like":
            return reference in text
        case _:
            return reference.casefold() in text.casefold()


def score_text_similarity(params: TextSimilarityParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """The similarity from 0 to 1, or 0 and 1 by `pass_threshold`."""
    measure = similarity.MEASURES[params.evaluation_metric]
    values = [_scored(measure, params, *pair) for pair in _both(completions, rows)]
    least = params.pass_threshold
    return values if least is None else [float(value >= least) for value in values]


def _both(completions: Sequence[str], rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    return zip(completions, rows, strict=True)


def _scored(measure: Callable[[str, str], float], params: Any, completion: str, row: Row) -> float:
    try:
        return measure(*_pair(params, completion, row))
    except SampleProblem as problem:
        return zero_for(problem)


def _pair(params: StringCheckParams | TextSimilarityParams, completion: str, row: Row) -> tuple[str, str]:
    return render(params.input, completion, row), render(params.reference, completion, row)


def _columns(params: Any) -> tuple[str, ...]:
    return columns_of(params.input, params.reference)


def _row_problem(params: Any, row: Row) -> str | None:
    try:
        for template in (params.input, params.reference):
            _rendered(template, row)
    except RowProblem as problem:
        return str(problem)
    return None


def _rendered(template: str, row: Row) -> None:
    with suppress(SampleProblem):  # no completion is here yet
        render(template, "", row)


register_reward(
    Reward(
        name="string_check",
        description="1 if the completion equals, differs from or contains a reference, else 0 (OpenAI's grader).",
        params=StringCheckParams,
        score=score_string_check,
        columns=_columns,
        check_row=_row_problem,
    )
)
register_reward(
    Reward(
        name="text_similarity",
        description="How similar the completion is to a reference, from 0 to 1 (OpenAI's grader).",
        params=TextSimilarityParams,
        score=score_text_similarity,
        columns=_columns,
        check_row=_row_problem,
    )
)
