"""The rewards of a GRPO job as functions of a bare script."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opensloth.method_args import RewardSpec
from opensloth.rewards.build import build_rewards  # noqa: F401 - registers what is built in
from opensloth.rewards.registry import reward_map
from opensloth.script_parts.source import body, imports

STOOD_IN = ("spec", "registry", "failures")
"""Modules of `opensloth.rewards` of which a script has a short form of its own."""
NOT_CARRIED = ("http", "code_tests")
"""Rewards that are no pure function: a team's service, and code that only a sandbox should run."""

FRAME = """class RowProblem(Exception):
    pass


class ItemHopeless(Exception):
    pass


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Reward:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __class_getitem__(cls, _: Any) -> type:
        return cls


reward_map: dict[str, Reward] = {}
Column = str


def register_reward(reward: Reward) -> Reward:
    reward_map[reward.name] = reward
    return reward"""

CALL = """def reward_function(name: str, label: str, params: dict) -> Callable:
    reward = reward_map[name]
    given = reward.params.model_validate(params)

    def score(prompts: list, completions: list, completion_ids: list | None = None, **columns: Any) -> list:
        rows = [{"prompt": prompt, "completion_tokens": len(ids)} for prompt, ids in zip(prompts, completion_ids)]
        for column, values in columns.items():
            if isinstance(values, list) and len(values) == len(rows):
                for row, value in zip(rows, values):
                    row[column] = value
        texts = [answer if isinstance(answer, str) else answer[-1]["content"] for answer in completions]
        return [one(text, row) for text, row in zip(texts, rows)]

    def one(text: str, row: dict) -> float:
        try:
            return float(reward.score(given, [text], [row])[0])
        except ItemHopeless:
            return 0.0

    score.__name__ = label
    return score"""


@dataclass(frozen=True)
class RewardSource:
    """Source that defines `REWARDS`, and the imports that it needs."""

    source: str
    imports: tuple[str, ...]


def render_rewards(specs: Sequence[RewardSpec]) -> RewardSource:
    """The functions for TRL, in order; one that is not carried says in its place what is to be written there."""
    parts, needed, entries = [FRAME], ["from pydantic import BaseModel, ConfigDict"], []
    seen: set[str] = set(STOOD_IN)
    for spec in specs:
        name = spec.name
        module = reward_map[name].score.__module__.rpartition(".")[2] if name in reward_map else None
        if module is None or module in NOT_CARRIED:
            entries.append(f"missing({name!r})")
            continue
        _carry(module, seen, parts, needed)
        entries.append(f"reward_function({name!r}, {name!r}, {spec.params!r})")
    missing = """def missing(name: str) -> Callable:
    def score(prompts: list, completions: list, **columns: Any) -> list:
        raise NotImplementedError(f"write the reward {name} here: a float for each completion")

    return score"""
    source = "\n\n\n".join([*parts, CALL, missing, "REWARDS = [" + ", ".join(entries) + "]"])
    return RewardSource(source, tuple(dict.fromkeys(needed)))


def _carry(module: str, seen: set[str], parts: list[str], needed: list[str]) -> None:
    if module in seen:
        return
    seen.add(module)
    found = importlib.util.find_spec(f"opensloth.rewards.{module}")
    assert found is not None
    assert found.origin is not None
    file = Path(found.origin)
    outside, inside = imports(file)
    for name in inside:
        if name.startswith("opensloth.rewards."):
            _carry(name.rpartition(".")[2], seen, parts, needed)
    needed += outside
    parts.append(body(file))
