"""Live events over connections that break: every event once, in order."""

from __future__ import annotations

import httpx
import pytest

from opensloth.client import Client, NotFound, Unreachable
from opensloth.remote import follow, transport
from tests.support.fake_api import FakeApi, event, job, sse

ID = job()["id"]
EVENTS = f"GET /v1/jobs/{ID}/events"


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(follow, "REOPEN_S", 0.001)
    made = FakeApi()
    made.on(f"GET /v1/jobs/{ID}", job("running"))
    return made


@pytest.fixture
def client(api):
    return Client("http://box", "k", http_transport=api.transport())


def ended(seq):
    return event(seq, "state", **{"from": "running", "to": "succeeded", "reason": None})


def test_a_dropped_stream_goes_on_behind_the_last_event(api, client):
    drops = []
    api.on(
        EVENTS, sse(event(1), event(2), cut=b'id: 3\ndata: {"half'), httpx.ReadError("reset"), sse(event(3), ended(4))
    )
    seen = [found.seq for found in client.jobs.follow(ID, on_drop=lambda problem, pause: drops.append(problem))]
    assert seen == [1, 2, 3, 4]
    assert [request.headers["last-event-id"] for request in api.seen(EVENTS)] == ["0", "2", "2"]
    assert len(drops) == 1


def test_events_that_come_again_are_given_once(api, client):
    api.on(EVENTS, sse(event(1), event(2)), sse(event(1), event(2), event(3), ended(4)))
    assert [found.seq for found in client.jobs.follow(ID)] == [1, 2, 3, 4]


def test_following_ends_with_the_job_though_the_stream_stays_open(api, client):
    api.on(EVENTS, sse(event(1), ended(2), event(3)))
    assert [found.seq for found in client.jobs.follow(ID)] == [1, 2]


def test_a_job_that_has_ended_is_read_from_the_list(api, client):
    api.on(f"GET /v1/jobs/{ID}", job("succeeded"))
    api.on(EVENTS, {"object": "list", "data": [event(5), ended(6)], "has_more": False, "last_id": "6"})
    assert [found.seq for found in client.jobs.follow(ID, last_seq=4)] == [5, 6]
    assert api.seen(EVENTS)[0].url.params["after"] == "4"


def test_a_job_that_ended_while_the_connection_was_down_is_read_to_its_end(api, client):
    api.on(f"GET /v1/jobs/{ID}", job("running"), job("succeeded"))
    api.on(EVENTS, sse(event(1)), {"data": [event(2), ended(3)], "has_more": False, "last_id": "3"})
    assert [found.seq for found in client.jobs.follow(ID)] == [1, 2, 3]


def test_a_server_that_stays_away_ends_it_when_patience_does(api, client):
    api.on(EVENTS, httpx.ReadError("reset"))
    with pytest.raises(Unreachable):
        list(client.jobs.follow(ID, patience_s=0.01))


def test_a_job_that_does_not_exist_is_not_waited_for(client):
    with pytest.raises(NotFound):
        list(client.jobs.follow("ftjob-none"))


def test_a_log_goes_on_where_it_broke_off(api, client):
    def broken():
        yield b"line one\nline "
        raise httpx.ReadError("reset")

    whole = httpx.Response(200, text="line one\nline two\n")
    api.on(f"GET /v1/jobs/{ID}", job("running"), job("succeeded"))
    api.on(f"GET /v1/jobs/{ID}/logs", lambda _: httpx.Response(200, content=broken()), whole)
    assert "".join(client.jobs.follow_log(ID)) == "line one\nline two\n"


def test_a_log_that_the_server_ended_early_is_asked_for_again(api, client):
    api.on(f"GET /v1/jobs/{ID}", job("running"), job("running"), job("failed"))
    api.on(f"GET /v1/jobs/{ID}/logs", *(httpx.Response(200, text=text) for text in ("a\n", "a\nb\n", "a\nb\nc\n")))
    assert list(client.jobs.follow_log(ID)) == ["a\n", "b\n", "c\n"]
