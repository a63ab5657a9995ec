"""Whether an attempt that failed is tried again, what that costs and when: the reasons' table, applied."""

from __future__ import annotations

from dataclasses import dataclass

from opensloth.jobs.reasons import Reason, reason

MOST_WAIT_S = 600.0
"""The backoff grows to this."""


@dataclass(frozen=True)
class History:
    """What the job has behind it when an attempt ends."""

    retries: int
    """Charged so far."""
    max_retries: int
    in_a_row: int
    """Attempts that ended for the same reason since the newest checkpoint was made, this one among them."""
    suspects: int = 1
    """Jobs of which each may be to blame for that, this one among them."""
    place: int = 0
    """In the order in which the suspects go on, so that the next time fewer of them are there."""


@dataclass(frozen=True)
class Decision:
    """What follows; `wait_s` is for a retry."""

    reason: Reason
    retry: bool
    retries: int
    wait_s: float = 0.0


def decide(code: str, history: History, backoff_s: float, *, charged: bool = False, apart_s: float = 0.0) -> Decision:
    """`charged`: this one counts even if its reason's do not. `apart_s`: by so much suspects are set apart.

    A free retry comes at once, the first charged one after `backoff_s`, which doubles with each. Where the table gives
    a free reason a limit, reaching it without a new checkpoint ends the job or is charged from then on; after the
    first of such a row the next waits as well. While several jobs may be to blame none of them is ended.
    """
    why = reason(code)
    at_limit = why.limit is not None and history.in_a_row >= why.limit
    if at_limit and why.beyond is not None:
        if history.suspects == 1:
            return Decision(reason(why.beyond), False, history.retries)
        return Decision(why, True, history.retries, history.place * apart_s)
    is_charged = why.charged or charged or at_limit
    retries = history.retries + (1 if is_charged else 0)
    if not why.retryable or retries > history.max_retries:
        return Decision(why, False, retries)
    waits = retries if is_charged else history.in_a_row - 1 if why.limit is not None else 0
    return Decision(why, True, retries, backoff(waits, backoff_s))


def backoff(number: int, first_s: float) -> float:
    """Seconds before retry `number`, from 1 on; none before the zeroth."""
    return min(MOST_WAIT_S, first_s * 2.0 ** min(number - 1, 30)) if number > 0 else 0.0
