"""What is tried again, how often and when."""

from __future__ import annotations

import pytest

from opensloth.jobs.reasons import REASONS
from opensloth.jobs.retry_policy import MOST_WAIT_S, History, decide


@pytest.mark.parametrize("code", [why.code for why in REASONS.values() if not why.retryable])
def test_what_a_retry_cannot_mend_ends_the_job(code: str) -> None:
    assert not decide(code, History(0, 100, 1), 5.0).retry


@pytest.mark.parametrize("code", [why.code for why in REASONS.values() if why.retryable and why.charged])
def test_a_charged_retry_counts_and_waits_longer_each_time(code: str) -> None:
    waits = [decide(code, History(retries, 3, 1), 5.0) for retries in range(4)]
    assert [(decision.retry, decision.wait_s) for decision in waits[:3]] == [(True, 5.0), (True, 10.0), (True, 20.0)]
    assert not waits[3].retry


@pytest.mark.parametrize("code", [why.code for why in REASONS.values() if why.retryable and not why.charged])
def test_a_free_retry_comes_at_once_however_many_there_were(code: str) -> None:
    decision = decide(code, History(2, 2, 1), 5.0)
    assert (decision.retry, decision.retries, decision.wait_s) == (True, 2, 0.0)


def test_a_job_that_takes_worker_after_worker_down_is_given_up() -> None:
    found = [decide("host_lost", History(0, 2, times), 5.0) for times in (0, 1, 2, 3)]
    assert [(one.reason.code, one.retry) for one in found[:3]] == [("host_lost", True)] * 3
    assert [one.wait_s for one in found[:3]] == [0.0, 0.0, 5.0]
    assert (found[3].reason.code, found[3].retry) == ("worker_killed", False)


def test_while_several_may_be_to_blame_they_are_set_apart() -> None:
    found = [decide("host_lost", History(0, 2, 3, suspects=3, place=place), 5.0, apart_s=150.0) for place in range(3)]
    assert [(one.reason.code, one.retry, one.wait_s) for one in found] == [
        ("host_lost", True, 0.0),
        ("host_lost", True, 150.0),
        ("host_lost", True, 300.0),
    ]


def test_a_lack_of_memory_that_others_are_blamed_for_again_and_again_is_charged() -> None:
    assert decide("crowded_out", History(0, 2, 3), 5.0).retries == 1
    assert not decide("crowded_out", History(2, 2, 3), 5.0).retry


def test_the_wait_has_a_bound() -> None:
    assert decide("storage_error", History(90, 100, 1), 5.0).wait_s == MOST_WAIT_S
