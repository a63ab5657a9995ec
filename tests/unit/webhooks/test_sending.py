"""What a receiver may say about the next attempt."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from opensloth.webhooks.sending import _LONGEST_RETRY_AFTER_S, _wait_s


@pytest.mark.parametrize("told", [b"", b"soon", b"-1", b"1.5", b"\xff", b"Wed, 99 Nov 2026 10:00:00 GMT"])
def test_what_is_no_time_asks_for_nothing(told):
    assert _wait_s(told) == 0.0


def test_seconds_and_dates_are_waited_for_and_neither_for_ever():
    assert _wait_s(b"120") == 120.0
    assert _wait_s(formatdate(time.time() + 600, usegmt=True).encode()) == pytest.approx(600, abs=60)
    assert _wait_s(formatdate(time.time() - 600, usegmt=True).encode()) == 0.0
    for told in (b"9" * 400, formatdate(time.time() + 10**8, usegmt=True).encode()):
        assert _wait_s(told) == _LONGEST_RETRY_AFTER_S
