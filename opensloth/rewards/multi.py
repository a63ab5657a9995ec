"""The reward `multi`: several graders and a formula over their scores, OpenAI's multi grader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from opensloth.rewards.formula import MAX_FORMULA, Formula, FormulaProblem
from opensloth.rewards.graders import (
    StringCheckParams,
    TextSimilarityParams,
    score_string_check,
    score_text_similarity,
)
from opensloth.rewards.python_grader import PythonParams, score_python
from opensloth.rewards.registry import Reward, register_reward, reward_map
from opensloth.rewards.spec import Params, RewardSpec, Row

MAX_GRADERS = 20
Score = Callable[[Any, Sequence[str], Sequence[Row]], list[float]]
PARTS: dict[str, tuple[type[Params], Score]] = {
    "string_check": (StringCheckParams, score_string_check),
    "text_similarity": (TextSimilarityParams, score_text_similarity),
    "python": (PythonParams, score_python),
}
"""The rewards that a formula may be made of."""


class MultiParams(Params):
    """The graders by name, and the formula over them."""

    graders: dict[str, RewardSpec] = Field(min_length=1, max_length=MAX_GRADERS)
    """By the name that the formula has for it: `{"name": "string_check", "params": {...}}` and so on."""
    calculate_output: str = Field(min_length=1, max_length=MAX_FORMULA)
    """Such as `0.7 * exact + 0.3 * max(close, 0.5)`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        formula = Formula(self.calculate_output)
        if unknown := sorted(formula.names - self.graders.keys()):
            raise ValueError(f"calculate_output names {unknown[0]!r}; the graders are {', '.join(self.graders)}")
        for name, spec in self.graders.items():
            if spec.name not in PARTS:
                raise ValueError(f"graders.{name}: {spec.name!r} cannot be part of it; {', '.join(PARTS)} can")
            try:
                PARTS[spec.name][0].model_validate(spec.params)
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False)[0]
                where = ".".join(map(str, ("graders", name, *first["loc"])))
                raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        return self


def parts_of(params: MultiParams) -> list[tuple[str, Reward[Any], Any]]:
    """Name, reward and parameters of each grader."""
    given = (
        (name, spec.name, PARTS[spec.name][0].model_validate(spec.params)) for name, spec in params.graders.items()
    )
    return [(name, reward_map[kind], bound) for name, kind, bound in given]


def combined(formula: Formula, scores: dict[str, float]) -> float:
    """The formula's value; 0 where it has none."""
    try:
        return formula(scores)
    except FormulaProblem:
        return 0.0


def score_multi(params: MultiParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """The formula's value for each completion; a grader that the formula does not name is not asked."""
    formula = Formula(params.calculate_output)
    parts = {}
    for name, spec in params.graders.items():
        if name in formula.names:
            model, score = PARTS[spec.name]
            parts[name] = score(model.model_validate(spec.params), completions, rows)
    return [combined(formula, {name: scores[i] for name, scores in parts.items()}) for i in range(len(completions))]


def _columns(params: MultiParams) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for _, reward, given in parts_of(params) for column in reward.columns(given)))


def _row_problem(params: MultiParams, row: Row) -> str | None:
    problems = ((name, reward.check_row(given, row)) for name, reward, given in parts_of(params))
    return next((f"{name}: {problem}" for name, problem in problems if problem), None)


def _prepare(params: MultiParams) -> None:
    for _, reward, given in parts_of(params):
        reward.prepare(given)


def _time_for(params: MultiParams, count: int) -> float:
    return sum(reward.extra_time_s(given, count) for _, reward, given in parts_of(params))


register_reward(
    Reward(
        name="multi",
        description="A formula over the scores of several graders (OpenAI's grader).",
        params=MultiParams,
        score=score_multi,
        columns=_columns,
        reads_all=True,
        check_row=_row_problem,
        prepare=_prepare,
        extra_time_s=_time_for,
    )
)
