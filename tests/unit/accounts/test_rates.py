"""The bucket of a key's requests: it holds a minute's, refills evenly, and several processes draw from one."""

from __future__ import annotations

import secrets

import pytest

from opensloth.accounts import rates
from opensloth.accounts.rates import Rate, RateLimiter
from opensloth.errors import RateLimited

NOWHERE = "redis://127.0.0.1:9/0"


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rates, "time", made)
    return made


def passed(limiter: RateLimiter, key: str, tries: int, limit: int | None = None) -> int:
    count = 0
    for _ in range(tries):
        try:
            limiter.take(key, limit)
        except RateLimited:
            continue
        count += 1
    return count


def test_without_redis_a_bucket_holds_a_minute_and_refills_evenly(clock: Clock) -> None:
    limiter = RateLimiter(NOWHERE, 60)
    assert passed(limiter, "a", 100) == 60
    clock.now += 2.5
    assert passed(limiter, "a", 10) == 2
    assert passed(limiter, "b", 100) == 60
    clock.now += 3600
    assert passed(limiter, "a", 100) == 60


def test_a_refusal_says_when_the_next_may_come(clock: Clock) -> None:
    limiter = RateLimiter(NOWHERE, 6)
    passed(limiter, "a", 6)
    clock.now += 4
    with pytest.raises(RateLimited) as refused:
        limiter.take("a")
    assert refused.value.retry_after_s == pytest.approx(6)
    clock.now += refused.value.retry_after_s
    assert limiter.take("a") is not None


def test_a_redis_that_does_not_answer_is_left_alone_for_a_while(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter(NOWHERE, 1000)
    asked = []
    ask = limiter._ask
    monkeypatch.setattr(limiter, "_ask", lambda *about: asked.append(1) or ask(*about))
    passed(limiter, "a", 50)
    assert len(asked) == 1
    clock.now += 6
    passed(limiter, "a", 50)
    assert len(asked) == 2


@pytest.mark.parametrize("limit", [1, 7, 99, 250, 1000])
def test_processes_that_share_redis_let_no_more_through_than_the_limit(valkey_url: str, limit: int) -> None:
    limiters = [RateLimiter(valkey_url, limit) for _ in range(3)]
    key = secrets.token_hex(4)
    count = sum(passed(limiters[n % 3], key, 1) for n in range(limit * 2))
    # Each may hold what it took and the others did not get; what the seconds of the test refill comes on top.
    assert limit - 3 * (limit // 100) <= count <= limit * 1.5 + 1


def test_a_new_limit_holds_from_the_next_request_on(valkey_url: str) -> None:
    limiter = RateLimiter(valkey_url, 1000)
    key = secrets.token_hex(4)
    assert passed(limiter, key, 10) == 10
    assert passed(limiter, key, 10, limit=2) <= 3
    assert limiter.take(key, 0) is None


@pytest.mark.parametrize(("left", "told"), [(60, "0ms"), (59.99, "10ms"), (58, "2s"), (0, "1m0s"), (-30, "1m30s")])
def test_the_time_until_all_is_there_again_is_told_as_openai_tells_it(left: float, told: str) -> None:
    assert Rate(60, left).headers()["x-ratelimit-reset-requests"] == told
