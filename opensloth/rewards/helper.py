"""The reward helper process: computes scores for one trainer and can be killed at any moment. Run by `runner`."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from opensloth.rewards.build import BoundReward, build_rewards
from opensloth.rewards.failures import SAMPLE, ItemHopeless, RowProblem, SampleProblem, be_strict
from opensloth.rewards.frames import LENGTH, pack
from opensloth.rewards.spec import RewardPolicy

PR_SET_PDEATHSIG = 1
BUILTIN_MEMORY = 4 * 2**30


def main() -> None:
    """Answer requests on the descriptors 0 and 1 until the trainer is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # What a reward prints belongs in the trainer's log, not between the frames.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    while request := _next(requests):
        # Even a call into C that never returns ends by this, should the trainer be gone: the default action is death.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"])
        _answer(request, answers)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _next(requests: BinaryIO) -> dict[str, Any] | None:
    head = requests.read(LENGTH)
    if len(head) < LENGTH:
        return None
    body = requests.read(int.from_bytes(head, "big"))
    return json.loads(body)  # type: ignore[no-any-return]


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    def say(**message: Any) -> None:
        answers.write(pack(message))
        answers.flush()

    try:
        if request["strict"]:
            be_strict()
        bound = _bound(request)
        bound.reward.prepare(bound.params)
        say(ready=True)
        if bound.reward.item_timeout_s is None:
            say(scores=_plain(bound.reward.score(bound.params, request["completions"], request["rows"])))
            return
        for place, (completion, row) in enumerate(zip(request["completions"], request["rows"], strict=True)):
            say(place=place, **_one(bound, completion, row))
    except RowProblem as problem:
        say(error=str(problem), row=_row_at_fault(bound, request["rows"]))
    except SampleProblem as problem:
        say(error=f"{SAMPLE}{problem}")
    except Exception as error:
        traceback.print_exc()
        say(error=_describe(error))


def _row_at_fault(bound: BoundReward, rows: list[dict[str, Any]]) -> int | None:
    """Which row a whole batch failed by; None where the trainer knows it, since it asks one by one."""
    if bound.reward.item_timeout_s is not None:
        return None
    return next((place for place, row in enumerate(rows) if bound.reward.check_row(bound.params, row)), None)


def _one(bound: BoundReward, completion: str, row: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"score": _plain(bound.reward.score(bound.params, [completion], [row]))[0]}
    except ItemHopeless:
        return {"score": 0.0}
    except (MemoryError, RecursionError) as error:
        return {"score": 0.0} if bound.reward.hopeless_is_zero else {"error": _describe(error)}


def _plain(scores: Any) -> list[Any]:
    """A list that JSON can carry; what is no list or no number is told apart by the trainer."""
    if hasattr(scores, "tolist"):
        scores = scores.tolist()
    if not isinstance(scores, list | tuple):
        raise TypeError(f"it returned {type(scores).__name__}, not a list of numbers")
    return [score.item() if hasattr(score, "item") else score for score in scores]


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _bound(request: dict[str, Any]) -> BoundReward:
    importlib.import_module(request["module"])
    policy = RewardPolicy(tuple(request["urls"]), Path(request["folder"]) if request["folder"] else None, python=True)
    return build_rewards([request["spec"]], policy)[0]


if __name__ == "__main__":
    if "--bounded" in sys.argv:
        resource.setrlimit(resource.RLIMIT_AS, (BUILTIN_MEMORY, BUILTIN_MEMORY))
    main()
