"""From what a job asks for to rewards that can be computed, every mistake named with its field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from opensloth.datasets.messages import shown
from opensloth.errors import FieldError, InvalidInput
from opensloth.method_args import MAX_REWARDS
from opensloth.rewards import (  # noqa: F401 - register
    code_tests,
    graders,
    http,
    json_schema,
    length,
    matching,
    multi,
    numeric,
    python_grader,
)
from opensloth.rewards.file_reward import as_reward
from opensloth.rewards.files import PREFIX, FileReward, FileRewardRefused, list_files, read_file
from opensloth.rewards.registry import Reward, reward_map
from opensloth.rewards.spec import Params, RewardPolicy, RewardSpec, Row


@dataclass(frozen=True)
class BoundReward:
    """A reward with its parameters, ready to score.

    `label` is unique in its job and names the metric (`rewards/<label>/mean`); `index` is its place in the list.
    """

    index: int
    label: str
    weight: float
    spec: RewardSpec
    params: Params
    reward: Reward[Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The dataset columns that it reads."""
        return self.reward.columns(self.params)

    def missing_columns(self, available: Collection[str], path: str = "reward_functions") -> list[FieldError]:
        """An error for each column that it reads and the dataset does not have; names as `messages.shown` has them."""
        have = ", ".join(f"`{name}`" for name in sorted(available)[:20])
        return [
            FieldError(
                f"{path}[{self.index}]",
                f"reward {self.label!r} reads column `{column}`, which the dataset does not have (it has {have}); "
                "add the column or name another in params",
                "missing_column",
            )
            for column in (*self.columns, *self.reward.optional_columns(self.params))
            if shown(column) not in available
        ]

    def row_problem(self, row: Row) -> str | None:
        """What keeps it from judging answers to this row, or None; for the check of a dataset row by row."""
        missing = next((column for column in self.columns if row.get(column) is None), None)
        if missing is not None:
            return f"reward {self.label!r} needs column `{missing}`, which is missing or null"
        problem = self.reward.check_row(self.params, row)
        return None if problem is None else f"reward {self.label!r}: {problem}"

    def slice(self, row: Row) -> dict[str, Any]:
        """What of a row it is given."""
        if self.reward.reads_all:
            return dict(row)
        kept = {*self.columns, *self.reward.optional_columns(self.params), length.TOKEN_COUNT}
        return {name: value for name, value in row.items() if name in kept}


def build_rewards(
    specs: Sequence[RewardSpec | Mapping[str, Any] | str], policy: RewardPolicy, *, path: str = "reward_functions"
) -> list[BoundReward]:
    """The rewards of a job, in order. Raises InvalidInput with a FieldError for each mistake, under `path`."""
    if not 1 <= len(specs) <= MAX_REWARDS:
        problem = FieldError(path, f"name between 1 and {MAX_REWARDS} rewards", "wrong_number")
        raise InvalidInput(f"{path}: {problem.message}", fields=[problem])
    built: list[BoundReward] = []
    errors: list[FieldError] = []
    for index, given in enumerate(specs):
        try:
            built.append(_bind(given, index, {bound.label for bound in built}, policy, f"{path}[{index}]"))
        except InvalidInput as error:
            errors += error.fields
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return built


def _bind(given: Any, index: int, taken: set[str], policy: RewardPolicy, path: str) -> BoundReward:
    spec = given if isinstance(given, RewardSpec) else _validated(RewardSpec, given, path)
    reward = _find(spec, policy, path)
    params: Params = _validated(reward.params, spec.params, f"{path}.params")
    if isinstance(params, http.HttpParams) and params.url not in policy.urls:
        message = "this URL is not among those that the administrator allows for rewards (OPENSLOTH_REWARD_URLS)"
        raise InvalidInput(message, fields=[FieldError(f"{path}.params.url", message, "url_not_allowed")])
    if not policy.python and brings_python(spec.name, params):
        message = "this server takes no Python of a job's own; an admin allows it with OPENSLOTH_REWARD_PYTHON=true"
        raise InvalidInput(message, fields=[FieldError(f"{path}.name", message, "python_not_allowed")])
    return BoundReward(index, unique_label(spec.name, taken), spec.weight, spec, params, reward)


def brings_python(name: str, params: Params) -> bool:
    """Whether a reward runs Python that came with the job."""
    parts = [spec.name for spec in params.graders.values()] if isinstance(params, multi.MultiParams) else [name]
    return python_grader.NAME in parts


def unique_label(name: str, taken: Collection[str]) -> str:
    """What a reward is called in metrics: its name, with a number behind it where another one has that."""
    base = re.sub(r"[^\w.-]", "_", name)
    return next(label for label in (base, *(f"{base}_{n}" for n in range(2, MAX_REWARDS + 2))) if label not in taken)


def _find(spec: RewardSpec, policy: RewardPolicy, path: str) -> Reward[Any]:
    if spec.name.startswith(PREFIX):
        try:
            file = read_file(policy.folder, spec.name.removeprefix(PREFIX))
        except FileRewardRefused as refused:
            raise _refused(f"{path}.name", str(refused), "unknown_reward") from None
        _check_file_params(file, spec.params, f"{path}.params")
        return as_reward(file)
    if spec.name in reward_map:
        return reward_map[spec.name]
    known = [*sorted(reward_map), *(PREFIX + file.name for file in list_files(policy.folder))]
    message = f"unknown reward {spec.name!r}{_nearest(spec.name, known)}; known are {', '.join(known)}"
    raise _refused(f"{path}.name", message, "unknown_reward")


def _check_file_params(file: FileReward, params: Mapping[str, Any], path: str) -> None:
    errors = [FieldError(f"{path}.{name}", "required", "missing") for name in file.required if name not in params]
    if not file.open:
        errors += [
            FieldError(f"{path}.{name}", f"unknown parameter{_nearest(name, file.parameters)}", "unknown_field")
            for name in params
            if name not in file.parameters
        ]
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)


def _validated(model: type[Any], value: Any, path: str) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        known = [field.alias or name for name, field in model.model_fields.items()]
        fields = [_field_error(item, known, path) for item in error.errors(include_url=False, include_context=False)]
        raise InvalidInput(f"{fields[0].path}: {fields[0].message}", fields=fields) from None


def _field_error(item: Any, known: Iterable[str], path: str) -> FieldError:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
    if item["type"] == "extra_forbidden":
        name = str(item["loc"][-1])
        return FieldError(path + where, f"unknown parameter{_nearest(name, known)}", "unknown_field")
    return FieldError(path + where, item["msg"].removeprefix("Value error, "), item["type"])


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:64], list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _refused(path: str, message: str, code: str) -> InvalidInput:
    return InvalidInput(f"{path}: {message}", fields=[FieldError(path, message, code)])
