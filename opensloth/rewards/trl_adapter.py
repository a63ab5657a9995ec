"""Rewards as the functions that TRL's GRPOTrainer calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opensloth.rewards.build import BoundReward
from opensloth.rewards.length import TOKEN_COUNT
from opensloth.rewards.runner import RewardRunner

NOT_COLUMNS = frozenset({"trainer_state", "log_extra", "log_metric", "environments"})
"""What TRL 1.14 passes beside the columns."""


def as_trl_reward_funcs(bound_rewards: Sequence[BoundReward], runner: RewardRunner) -> list[Callable[..., list[float]]]:
    """A function `(prompts, completions, **columns) -> list[float]` for each reward, named by its label.

    Completions are texts or lists of messages; columns are lists of one value for each completion. The functions raise
    RewardFailed. Weights go to `GRPOConfig(reward_weights=[bound.weight for bound in bound_rewards])`.
    """
    return [_function(bound, runner) for bound in bound_rewards]


def _function(bound: BoundReward, runner: RewardRunner) -> Callable[..., list[float]]:
    def reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        rows = [{"prompt": prompt} for prompt in prompts]
        for name, values in columns.items():
            if name in NOT_COLUMNS:
                continue
            for row, value in zip(rows, values, strict=True):
                row[name] = value
        for row, ids in zip(rows, completion_ids or [], strict=bool(completion_ids)):
            row[TOKEN_COUNT] = len(ids)
        return runner.score(bound, [text_of(completion) for completion in completions], rows)

    reward.__name__ = bound.label
    reward.__qualname__ = bound.label
    return reward


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or the content of its last message by the assistant."""
    if isinstance(completion, str):
        return completion
    own = [message for message in completion if message.get("role") == "assistant"]
    content = own[-1].get("content") if own else None
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content or ""
