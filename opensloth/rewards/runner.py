"""Computes rewards in a helper process with a deadline, so that none can hang or take down a trainer."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from opensloth.rewards.build import BoundReward
from opensloth.rewards.failures import RewardFailed
from opensloth.rewards.files import PREFIX
from opensloth.rewards.frames import Closed, Late, pack, receive, send
from opensloth.rewards.spec import RewardPolicy, Row

START_LIMIT_S = 120.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "HOME", "VIRTUAL_ENV", "SSL_CERT_FILE")
KEPT_PREFIX = "OPENSLOTH_REWARD_"
"""What an administrator's own rewards need (a key of a service, say) comes in variables of this prefix."""


class RewardRunner:
    """Scores batches for one trainer process.

    A helper process is started when it is first needed and kept: one for the built-in rewards, one for each rewards
    file. It does not have the trainer's environment. Whatever overruns its time is killed and started anew.
    """

    def __init__(self, policy: RewardPolicy, *, strict: bool = False) -> None:
        self.policy = policy
        self._strict = strict
        self._helpers: dict[str, subprocess.Popen[bytes]] = {}

    def score(self, bound: BoundReward, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
        """A finite float for each completion; raises RewardFailed, within the limits of policy and reward."""
        if not completions:
            return []
        for place, row in enumerate(rows):
            missing = next((column for column in bound.columns if row.get(column) is None), None)
            if missing is not None:
                raise _failed(bound, f"column `{missing}` is missing or null", place, "add the column to every row")
        given = [bound.slice(row) for row in rows]
        if bound.reward.item_timeout_s is None:
            return _checked(bound, self._whole(bound, completions, given), len(completions))
        return _checked(bound, self._one_by_one(bound, completions, given), len(completions))

    def close(self) -> None:
        """End the helper processes."""
        for name in list(self._helpers):
            self._kill(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _whole(self, bound: BoundReward, completions: Sequence[str], rows: list[dict[str, Any]]) -> Any:
        limit = self.policy.call_timeout_s + bound.reward.extra_time_s(bound.params, len(completions))
        helper = self._ask(bound, completions, rows, limit)
        message = self._hear(bound, helper, time.monotonic() + limit)
        if message is None:
            raise _failed(
                bound, f"it did not answer within {limit:g} s", None, "make it faster, or its batches smaller"
            )
        return message["scores"]

    def _one_by_one(self, bound: BoundReward, completions: Sequence[str], rows: list[dict[str, Any]]) -> list[Any]:
        each = bound.reward.item_timeout_s or 0.0
        scores: list[Any] = []
        while len(scores) < len(completions):
            start = len(scores)
            limit = self.policy.call_timeout_s + each * (len(completions) - start)
            helper = self._ask(bound, completions[start:], rows[start:], limit)
            while len(scores) < len(completions):
                message = self._hear(bound, helper, time.monotonic() + each, len(scores))
                if message is not None:
                    scores.append(message["score"])
                    continue
                if not bound.reward.hopeless_is_zero:
                    shown = completions[len(scores)][:80]
                    raise _failed(bound, f"it took more than {each:g} s on one completion ({shown!r})", len(scores))
                scores.append(0.0)
                break
        return scores

    def _ask(
        self, bound: BoundReward, completions: Sequence[str], rows: list[dict[str, Any]], limit: float
    ) -> subprocess.Popen[bytes]:
        """Send the request and wait until the reward is loaded."""
        request = {
            "spec": bound.spec.model_dump(),
            "module": bound.reward.score.__module__,
            "urls": list(self.policy.urls),
            "folder": None if self.policy.folder is None else str(self.policy.folder),
            "limit_s": limit + START_LIMIT_S,
            "strict": self._strict,
            "completions": list(completions),
            "rows": rows,
        }
        deadline = time.monotonic() + START_LIMIT_S
        helper = self._helper(_home(bound))
        assert helper.stdin is not None
        try:
            send(helper.stdin.fileno(), pack(request), deadline)
        except (Closed, Late):
            self._kill(_home(bound))
            raise _failed(bound, "its helper process did not take the request") from None
        if self._hear(bound, helper, deadline) is None:
            raise _failed(bound, f"it did not load within {START_LIMIT_S:g} s")
        return helper

    def _hear(
        self, bound: BoundReward, helper: subprocess.Popen[bytes], deadline: float, row: int | None = None
    ) -> dict[str, Any] | None:
        """The next message; None after `deadline`, with the helper killed. Raises RewardFailed if it says an error."""
        assert helper.stdout is not None
        try:
            message = receive(helper.stdout.fileno(), deadline)
        except Late:
            self._kill(_home(bound))
            return None
        except Closed:
            self._kill(_home(bound))
            raise _failed(bound, f"its helper process died ({_ended(helper)})", row) from None
        except BaseException:
            # A signal handler raised in the middle of an answer: the rest of it must not meet the next request.
            self._kill(_home(bound))
            raise
        if "error" in message:
            if bound.reward.item_timeout_s is not None:
                # The helper has stopped with this batch, but only if the whole request failed; a new one is certain.
                self._kill(_home(bound))
            raise _failed(bound, message["error"], row if message.get("row") is None else message["row"])
        return message

    def _helper(self, home: str) -> subprocess.Popen[bytes]:
        running = self._helpers.get(home)
        if running is not None and running.poll() is None:
            return running
        variables = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        variables |= {name: value for name, value in os.environ.items() if name.startswith(KEPT_PREFIX)}
        # No GPU: a context there would take memory that the job does not know of.
        variables |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "opensloth.rewards.helper", *([] if home else ["--bounded"])]
        # The helper keeps this mask: a stop that is signalled to the whole group lets the trainer finish its step.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, bufsize=0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert helper.stdin is not None
        assert helper.stdout is not None
        os.set_blocking(helper.stdin.fileno(), False)
        os.set_blocking(helper.stdout.fileno(), False)
        self._helpers[home] = helper
        return helper

    def _kill(self, home: str) -> None:
        helper = self._helpers.pop(home, None)
        if helper is None:
            return
        with suppress(ProcessLookupError):
            helper.kill()
        helper.wait()
        for pipe in (helper.stdin, helper.stdout):
            if pipe is not None:
                pipe.close()


def _home(bound: BoundReward) -> str:
    """Which helper computes it: one for all that is built in, one for each rewards file."""
    return bound.spec.name if bound.spec.name.startswith(PREFIX) else ""


def _checked(bound: BoundReward, scores: Any, count: int) -> list[float]:
    if len(scores) != count:
        raise _failed(bound, f"it returned {len(scores)} scores for {count} completions")
    for place, score in enumerate(scores):
        if isinstance(score, bool):
            continue
        if not isinstance(score, int | float):
            raise _failed(bound, f"it returned {str(score)[:80]!r} ({type(score).__name__}), no number", place)
        if not math.isfinite(score):
            raise _failed(bound, f"it returned {score}", place)
    return [float(score) for score in scores]


def _failed(bound: BoundReward, why: str, row: int | None = None, hint: str | None = None) -> RewardFailed:
    return RewardFailed(bound.spec.name, bound.index, why, row=row, hint=hint)


def _ended(helper: subprocess.Popen[bytes]) -> str:
    code = helper.returncode
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
