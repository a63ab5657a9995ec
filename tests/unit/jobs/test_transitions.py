"""The table of transitions is the whole truth: each pair in it works, every other pair is refused."""

from __future__ import annotations

import itertools
import time

import pytest
from sqlalchemy import update

from opensloth.jobs.reasons import REASONS
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import ENDS_IN, STRENGTH, TERMINAL, TRANSITIONS, State, StopIntent, strengthens
from opensloth.jobs.transitions import end_by_intent, transition
from opensloth.services import Services
from tests.support.jobs import ADMIN, submit


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_pair_in_the_table_works_and_every_other_is_refused(services: Services) -> None:
    job_id = submit(services)
    for source, target in itertools.product(State, State):
        with services.database.write() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(state=source.value, attempt=1))
            moved = transition(session, services.events, job_id, target)
        assert moved == ((source, target) in TRANSITIONS), (source, target)
        expected = target if moved else source
        assert services.jobs.get(job_id, ADMIN).state == expected


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_write_that_names_another_attempt_is_refused(services: Services) -> None:
    job_id = submit(services)
    with services.database.write() as session:
        values = {"state": "running", "attempt": 2, "lease_until": time.time() + 60}
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))
    with services.database.write() as session:
        assert not transition(session, services.events, job_id, State.SUCCEEDED, attempt=1)
        assert transition(session, services.events, job_id, State.SUCCEEDED, attempt=2)


def test_terminal_states_have_no_way_out() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in TERMINAL]


def test_a_stop_only_strengthens() -> None:
    for old, new in itertools.product(StopIntent, StopIntent):
        assert strengthens(new, old) == (STRENGTH[new] > STRENGTH[old])
    assert all(strengthens(intent, None) for intent in StopIntent)


def test_every_intent_ends_where_the_table_allows_it() -> None:
    for intent in StopIntent:
        target, code = end_by_intent(intent)
        assert target is ENDS_IN[intent]
        assert (State.STOPPING, target) in TRANSITIONS
        assert code in REASONS
