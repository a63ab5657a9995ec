"""How many requests a key may send: a bucket that refills evenly, in Redis for all API processes together."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from opensloth.errors import RateLimited

log = logging.getLogger(__name__)

PERIOD_S = 60.0
_TIMEOUT_S = 0.2
_AWAY_S = 5.0
"""So long Redis is not asked again after it did not answer: each request would wait for it otherwise."""
_PARTS = 100
"""A process takes a hundredth of a minute's requests at once, so that few requests ask Redis."""
_SPARE_S = 10.0
"""What was taken and not used by then is gone, so that idle processes hoard nothing."""

_TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'left', 'at')
local left = limit
if kept[1] then
  left = math.min(limit, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * limit / 60)
end
local given = math.min(wanted, math.floor(left))
left = left - given
redis.call('HSET', KEYS[1], 'left', string.format('%.6f', left), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 120)
return {given, string.format('%.6f', left)}
"""


@dataclass(frozen=True)
class Rate:
    """What is left to a key after a request, as OpenAI's headers tell it."""

    limit: int
    """Requests a minute."""
    left: float

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*`; `reset` is when the whole minute's requests are there again."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(max(0, math.floor(self.left))),
            "x-ratelimit-reset-requests": _duration((self.limit - self.left) * PERIOD_S / self.limit),
        }


@dataclass
class _Bucket:
    """What this process holds of a key's requests: taken from Redis, or counted here while that is away."""

    limit: int
    spare: int = 0
    until: float = 0.0
    behind: float = 0.0
    """What Redis still had when it was asked last."""
    own_left: float = 0.0
    own_at: float | None = None


class RateLimiter:
    """Counts requests by key. Redis is never waited for long and never an error: without it each process counts."""

    def __init__(self, redis_url: str, default: int) -> None:
        self._default = default
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self._script = self._redis.register_script(_TAKE)
        self._away_until = 0.0
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def take(self, key_id: str, limit: int | None = None) -> Rate | None:
        """Count one request; None where there is no limit. Raises RateLimited, which says when the next may come."""
        limit = self._default if limit is None else limit
        if limit <= 0:
            return None
        with self._lock:
            bucket = self._buckets.get(key_id)
            if bucket is None or bucket.limit != limit:
                bucket = self._buckets[key_id] = _Bucket(limit)
            now = time.monotonic()
            if bucket.spare > 0 and now < bucket.until:
                bucket.spare -= 1
                return Rate(limit, min(limit, bucket.behind + bucket.spare))
            asks = now >= self._away_until
        given, left = self._ask(key_id, bucket) if asks else (None, 0.0)
        with self._lock:
            if given is None:
                given, left = _count_here(bucket)
            if given > 0:
                bucket.spare, bucket.until, bucket.behind = given - 1, time.monotonic() + _SPARE_S, left
                return Rate(limit, min(limit, left + given - 1))
        raise _refused(limit, left)

    def _ask(self, key_id: str, bucket: _Bucket) -> tuple[int | None, float]:
        """How many Redis gives and has left; None where it is away."""
        wanted = max(1, bucket.limit // _PARTS)
        try:
            given, left = cast(
                tuple[int, bytes], self._script(keys=[f"opensloth:rate:{key_id}"], args=[bucket.limit, wanted])
            )
        except (redis.RedisError, OSError) as error:
            self._away_until = time.monotonic() + _AWAY_S
            log.warning("requests are counted in this process alone: %s", error)
            return None, 0.0
        return int(given), float(left)


def _count_here(bucket: _Bucket) -> tuple[int, float]:
    """The same bucket without Redis, for this process."""
    now = time.monotonic()
    waited_s = math.inf if bucket.own_at is None else now - bucket.own_at
    left = min(bucket.limit, bucket.own_left + waited_s * bucket.limit / PERIOD_S)
    given = 1 if left >= 1 else 0
    bucket.own_left, bucket.own_at = left - given, now
    return given, left - given


def _refused(limit: int, left: float) -> RateLimited:
    rate = Rate(limit, left)
    return RateLimited(
        f"this key may send {limit:,} requests a minute, and has sent as many",
        hint="wait for the time that Retry-After names, or ask an admin for a higher limit",
        retry_after_s=max(0.001, (1 - left) * PERIOD_S / limit),
        headers=rate.headers(),
    )


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(max(0.0, seconds) * 1000)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
