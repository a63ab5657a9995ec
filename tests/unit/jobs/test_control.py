"""Cancel, pause, resume, priority and order: what each does in every state, and with two clients at once."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from sqlalchemy import select, update

from opensloth.accounts.keys import Caller
from opensloth.errors import Conflict, InvalidInput, NotAllowed, NotFound
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.endings import End
from opensloth.jobs.ordering import Place
from opensloth.jobs.planning import plan_round
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import LIVE, State, StopIntent
from opensloth.services import Services
from tests.support.jobs import ADMIN, submit
from worker.host import Host

BOB = Caller("bob", "member")
REFUSED = "409"
LIVES = (State.STARTING, State.RUNNING)
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
STOPS = {"kill": StopIntent.KILL, "cancel": StopIntent.CANCEL, "limit": StopIntent.TIME_LIMIT,
         "pause": StopIntent.PAUSE, "preempt": StopIntent.PREEMPT, "drain": StopIntent.DRAIN}  # fmt: skip


@pytest.fixture
def attempts(services: Services) -> AttemptService:
    return AttemptService(services.database, services.events, services.publisher, services.settings)


def put(services: Services, job_id: str, state: State, intent: StopIntent | None = None, **values: Any) -> None:
    """Put a job into a state by force."""
    live = {"attempt": 1, "host_id": "box"} if state in LIVE else {}
    stop = intent.value if intent else None
    with services.database.write() as session:
        changes = {"state": state.value, "stop_intent": stop, **live, **values}
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**changes))


def outcome(services: Services, job_id: str, action: str, **options: Any) -> tuple[str, str | None] | str:
    """State and stop intent after the action, or that it was refused with a hint."""
    try:
        job = getattr(services.control, action)(job_id, ADMIN, **options)
    except Conflict as refused:
        return REFUSED if refused.hint else "refused without a hint"
    return job.state, job.stop_intent


def start(services: Services) -> None:
    Host(services)._register()
    plan_round(services.database, services.events, services.publisher, services.settings)


def order_of(services: Services, owner: str = "admin") -> list[str]:
    with services.database.read() as session:
        query = select(JobRow.id).where(JobRow.owner == owner, JobRow.state == "queued")
        return list(session.scalars(query.order_by(JobRow.own_rank, JobRow.queued_at)))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_pause_in_every_state(services: Services) -> None:
    job_id = submit(services)
    expected: dict[State, tuple[str, str | None] | str] = {
        State.WAITING: REFUSED,
        State.QUEUED: ("paused", None),
        State.PAUSED: ("paused", None),
        **dict.fromkeys(LIVES, ("stopping", "pause")),
        **dict.fromkeys(ENDED, REFUSED),
    }
    for state, answer in expected.items():
        put(services, job_id, state)
        assert outcome(services, job_id, "pause") == answer, state
    stopping = {"kill": REFUSED, "cancel": REFUSED, "limit": REFUSED}
    for name, intent in STOPS.items():
        put(services, job_id, State.STOPPING, intent)
        assert outcome(services, job_id, "pause") == stopping.get(name, ("stopping", "pause")), name


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_resume_in_every_state(services: Services) -> None:
    job_id = submit(services)
    for state in (State.WAITING, State.QUEUED, *LIVES):
        put(services, job_id, state)
        assert outcome(services, job_id, "resume") == (state, None)
    for intent in STOPS.values():
        put(services, job_id, State.STOPPING, intent)
        assert outcome(services, job_id, "resume") == REFUSED
    for state in ENDED:
        put(services, job_id, state)
        assert outcome(services, job_id, "resume") == REFUSED
    put(services, job_id, State.PAUSED, queued_at=1.0)
    assert outcome(services, job_id, "resume") == outcome(services, job_id, "resume") == ("queued", None)
    moves = [event.data["to"] for event in services.events.list(job_id) if event.type == "state"]
    assert moves == ["queued", "queued"], "resuming twice is resuming once"
    with services.database.read() as session:
        assert session.get_one(JobRow, job_id).queued_at > 1e9  # type: ignore[operator]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_cancel_in_every_state_with_and_without_a_checkpoint(services: Services) -> None:
    job_id = submit(services)
    for save in (True, False):
        intent = "cancel" if save else "kill"
        for state in State:
            if state is not State.STOPPING:
                put(services, job_id, state)
                expected: tuple[str, str | None] | str = ("cancelled", None)
                if state in LIVES:
                    expected = ("stopping", intent)
                elif state in (State.SUCCEEDED, State.FAILED):
                    expected = REFUSED
                assert outcome(services, job_id, "cancel", save=save) == expected, state
        for present in STOPS.values():
            put(services, job_id, State.STOPPING, present)
            wanted = "kill" if present is StopIntent.KILL or not save else "cancel"
            assert outcome(services, job_id, "cancel", save=save) == ("stopping", wanted)


def test_two_clients_that_pause_at_once_pause_once(services: Services, attempts: AttemptService) -> None:
    job_id = submit(services)
    start(services)
    attempts.take_up("box")
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(services.control.pause(job_id, ADMIN).state)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["stopping"] * 6
    moves = [event.data["to"] for event in services.events.list(job_id) if event.type == "state"]
    assert moves == ["queued", "starting", "stopping"]
    attempts.end(job_id, 1, End("stopped"))
    job = services.jobs.get(job_id, ADMIN)
    assert (job.state, job.reason, job.stop_intent) == ("paused", "paused", None)


def test_a_pause_wins_over_a_drain_and_loses_against_a_cancel(services: Services, attempts: AttemptService) -> None:
    job_id = submit(services)
    start(services)
    attempts.take_up("box")
    attempts.ask_stop(job_id, 1, StopIntent.DRAIN, "the host stops")
    assert services.control.pause(job_id, ADMIN).stop_intent == "pause"
    assert services.control.cancel(job_id, ADMIN, save=False).stop_intent == "kill"
    assert services.control.cancel(job_id, ADMIN).stop_intent == "kill"
    with pytest.raises(Conflict, match="cancel"):
        services.control.pause(job_id, ADMIN)
    attempts.end(job_id, 1, End("failed", "trainer_killed"))
    job = services.jobs.get(job_id, ADMIN)
    assert (job.state, job.reason) == ("cancelled", "cancelled")


def test_a_paused_job_is_not_placed_and_a_resumed_one_is(services: Services) -> None:
    job_id = submit(services)
    services.control.pause(job_id, ADMIN)
    start(services)
    assert services.jobs.get(job_id, ADMIN).state == "paused"
    services.control.resume(job_id, ADMIN)
    start(services)
    assert services.jobs.get(job_id, ADMIN).state == "starting"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_only_its_owner_or_an_admin_changes_a_job(services: Services) -> None:
    job_id = submit(services)
    actions = [
        lambda: services.control.cancel(job_id, BOB),
        lambda: services.control.pause(job_id, BOB),
        lambda: services.control.resume(job_id, BOB),
        lambda: services.control.change(job_id, BOB, priority="low"),
        lambda: services.control.move(job_id, BOB, Place(to="front")),
    ]
    for action in actions:
        with pytest.raises((NotAllowed, NotFound)):
            action()
    with pytest.raises(NotFound):
        services.control.pause("ftjob-none", ADMIN)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_owner_lowers_a_priority_and_an_admin_raises_it(services: Services) -> None:
    job_id = submit(services)
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(owner="bob"))
    assert services.control.change(job_id, BOB, priority="low").priority == "low"
    with pytest.raises(NotAllowed):
        services.control.change(job_id, BOB, priority="normal")
    assert services.control.change(job_id, ADMIN, priority="urgent").priority == "urgent"
    assert services.control.change(job_id, BOB, keep=True).kept is True
    put(services, job_id, State.SUCCEEDED)
    with pytest.raises(Conflict):
        services.control.change(job_id, ADMIN, priority="low")
    assert services.control.change(job_id, BOB, keep=False).kept is False


def test_ones_own_jobs_are_put_in_any_order_and_new_ones_come_last(services: Services) -> None:
    a, b, c = (submit(services) for _ in range(3))
    assert order_of(services) == [a, b, c]
    services.control.move(c, ADMIN, Place(to="front"))
    assert order_of(services) == [c, a, b]
    services.control.move(c, ADMIN, Place(before=b))
    assert order_of(services) == [a, c, b]
    services.control.move(a, ADMIN, Place(to="back"))
    d = submit(services)
    assert order_of(services) == [c, b, a, d]
    for place in (Place(before=a), Place(before="ftjob-none")):
        with pytest.raises(InvalidInput, match="cannot be moved"):
            services.control.move(a, ADMIN, place)
    low = submit(services, priority="low")
    with pytest.raises(InvalidInput):
        services.control.move(low, ADMIN, Place(before=a))
    services.control.cancel(d, ADMIN)
    with pytest.raises(Conflict):
        services.control.move(d, ADMIN, Place(to="front"))


def test_many_moves_at_once_leave_one_order(services: Services) -> None:
    jobs = [submit(services) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda job_id=job_id: services.control.move(job_id, ADMIN, Place(to="front")))
        for job_id in itertools.chain(jobs, jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order_of(services)) == sorted(jobs)
    with services.database.read() as session:
        assert sorted(session.scalars(select(JobRow.own_rank))) == [-4, -3, -2, -1]
