"""One grader on one answer, to try it before a job is made: what it gives, and what goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from opensloth.rewards.build import BoundReward, build_rewards
from opensloth.rewards.failures import SAMPLE, RewardFailed
from opensloth.rewards.formula import Formula, FormulaProblem
from opensloth.rewards.multi import MultiParams
from opensloth.rewards.python_grader import NAME
from opensloth.rewards.runner import RewardRunner
from opensloth.rewards.spec import RewardPolicy


@dataclass(frozen=True)
class Trial:
    """`reward`, the scores of the graders inside by name, and by kind what went wrong (then the reward is 0)."""

    reward: float
    scores: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class _OfThread(threading.local):
    runner: RewardRunner | None = None
    """Kept with its helper process, which takes far longer to start than most graders to answer."""


AT_ONCE = 2
_threads = ThreadPoolExecutor(AT_ONCE, "trials")
"""A helper dies with the thread that has started it: these stay."""
_here = _OfThread()


def try_grader(bound: BoundReward, policy: RewardPolicy, sample: str, item: Mapping[str, Any]) -> Trial:
    """What the grader gives for `sample`, in a helper process that is kept for the next trial."""
    return _threads.submit(_try, bound, policy, sample, item).result()


def _try(bound: BoundReward, policy: RewardPolicy, sample: str, item: Mapping[str, Any]) -> Trial:
    began = time.monotonic()
    if _here.runner is None or _here.runner.policy != policy:
        if _here.runner is not None:
            _here.runner.close()
        _here.runner = RewardRunner(policy, strict=True)
    found = _tried(bound, policy, _here.runner, sample, item)
    return Trial(found.reward, found.scores, found.errors, time.monotonic() - began)


def _tried(
    bound: BoundReward, policy: RewardPolicy, runner: RewardRunner, sample: str, item: Mapping[str, Any]
) -> Trial:
    if not isinstance(bound.params, MultiParams):
        return _one(bound, runner, sample, item)
    scores: dict[str, float] = {}
    errors: dict[str, str] = {}
    for name, spec in bound.params.graders.items():
        part = _one(build_rewards([spec], policy)[0], runner, sample, item)
        scores[name] = part.reward
        errors |= part.errors
    try:
        return Trial(Formula(bound.params.calculate_output)(scores), scores, errors)
    except FormulaProblem as problem:
        return Trial(0.0, scores, errors | {"formula": str(problem)})


def _one(bound: BoundReward, runner: RewardRunner, sample: str, item: Mapping[str, Any]) -> Trial:
    if problem := bound.row_problem(item):
        return Trial(0.0, errors={"variable": problem})
    try:
        return Trial(runner.score(bound, [sample], [item])[0])
    except RewardFailed as failed:
        kind = "python" if bound.spec.name == NAME else "sample" if failed.why.startswith(SAMPLE) else "other"
        return Trial(0.0, errors={kind: failed.why.removeprefix(SAMPLE)})
