import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from api.streaming import feed, hub
from opensloth.events.publisher import redis_client, stream_key
from opensloth.events.records import Record
from opensloth.jobs.states import State
from opensloth.jobs.transitions import transition
from opensloth.services import Services
from opensloth.settings import Settings
from tests.integration.api.conftest import client_for
from tests.support.http_server import serve
from tests.support.jobs import submit, wait_for

SSE = {"Accept": "text/event-stream"}


def say(services: Services, job_id: str, count: int, first: int = 0) -> None:
    records = [Record(type="log", message=f"m{first + n}") for n in range(count)]
    with services.database.write() as session:
        services.events.append(session, job_id, 0, records)


def end(services: Services, job_id: str) -> None:
    with services.database.write() as session:
        assert transition(session, services.events, job_id, State.CANCELLED, reason="cancelled")


def events_of(lines: Iterator[str]) -> Iterator[dict]:
    seq = None
    for line in lines:
        if line.startswith("id: "):
            seq = int(line[4:])
        if line.startswith("data: "):
            event = json.loads(line[6:])
            assert event["seq"] == seq
            yield event


class Listener:
    """Follows a job in a thread."""

    def __init__(self, client: httpx.Client, job_id: str, last_event_id: int | None = None) -> None:
        self.events: list[dict] = []
        self._headers = SSE if last_event_id is None else {**SSE, "Last-Event-ID": str(last_event_id)}
        self._client, self._job_id = client, job_id
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self._client.stream("GET", f"/v1/jobs/{self._job_id}/events", headers=self._headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for event in events_of(answer.iter_lines()):
                self.events.append(event)

    def seqs(self) -> list[int]:
        return [event["seq"] for event in self.events]

    def finish(self) -> list[int]:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.seqs()


def test_events_are_listed_oldest_first_after_a_number(admin, services):
    job_id = submit(services)
    say(services, job_id, 5)
    page = admin.get(f"/v1/jobs/{job_id}/events?limit=4").json()
    assert [event["seq"] for event in page["data"]] == [1, 2, 3, 4]
    assert (page["has_more"], page["last_id"]) == (True, "4")
    assert page["data"][1].keys() == {"object", "job_id", "seq", "attempt", "type", "level", "time", "message", "data"}
    rest = admin.get(f"/v1/jobs/{job_id}/events?after=4").json()
    assert ([event["seq"] for event in rest["data"]], rest["has_more"]) == ([5, 6], False)


def test_a_watcher_gets_the_past_then_each_event_once_and_the_stream_ends_with_the_job(admin, services):
    job_id = submit(services)
    say(services, job_id, 3)
    listener = Listener(admin, job_id)
    wait_for(lambda: len(listener.events) == 4)
    for n in range(20):
        say(services, job_id, 5, n * 5)
    end(services, job_id)
    assert listener.finish() == list(range(1, 106))
    assert listener.events[-1]["data"]["to"] == "cancelled"


def test_last_event_id_replays_what_was_missed(admin, services):
    job_id = submit(services)
    say(services, job_id, 9)
    listener = Listener(admin, job_id, last_event_id=6)
    wait_for(lambda: len(listener.events) == 4)
    end(services, job_id)
    assert listener.finish() == [7, 8, 9, 10, 11]


def test_an_ended_job_is_replayed_and_a_client_that_has_all_is_told_not_to_come_back(admin, services):
    job_id = submit(services)
    end(services, job_id)
    assert Listener(admin, job_id).finish() == [1, 2]
    answer = admin.get(f"/v1/jobs/{job_id}/events", headers={**SSE, "Last-Event-ID": "2"})
    assert answer.status_code == 204


def test_a_last_event_id_that_is_no_number_is_refused(admin, services):
    job_id = submit(services)
    for bad in ("x", "-1", "1e3", "9" * 40, "²"):
        headers = [(b"Accept", b"text/event-stream"), (b"Last-Event-ID", bad.encode())]
        answer = admin.get(f"/v1/jobs/{job_id}/events", headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "Last-Event-ID")


def test_a_last_event_id_beyond_the_last_event_keeps_nothing_from_anybody(admin, services):
    job_id = submit(services)
    ahead = Listener(admin, job_id, last_event_id=10**9)
    redis = redis_client(services.settings.redis)
    wait_for(lambda: redis.info("clients")["blocked_clients"] == 1)
    other = Listener(admin, job_id)
    say(services, job_id, 3)
    end(services, job_id)
    assert other.finish() == [1, 2, 3, 4, 5]
    assert ahead.finish() == [2, 3, 4, 5]


def test_an_event_that_redis_lost_comes_from_the_database(admin, services):
    job_id = submit(services)
    listener = Listener(admin, job_id)
    wait_for(lambda: len(listener.events) == 1)
    redis = redis_client(services.settings.redis)
    for n in range(4):
        say(services, job_id, 1, n)
        wait_for(lambda n=n: len(listener.events) == n + 2)
        redis.delete(stream_key(job_id))
    services.publisher.events = lambda job_id, events: None
    say(services, job_id, 3, 4)
    del services.publisher.events
    say(services, job_id, 1, 7)
    wait_for(lambda: len(listener.events) == 9)
    end(services, job_id)
    assert listener.finish() == list(range(1, 11))


def test_watchers_share_one_feed_and_leave_nothing_behind(admin, base_url, services, settings):
    job_id = submit(services)
    listeners = [Listener(admin, job_id) for _ in range(20)]
    wait_for(lambda: all(len(listener.events) == 1 for listener in listeners))
    redis = redis_client(services.settings.redis)
    wait_for(lambda: redis.info("clients")["blocked_clients"] == 1)
    say(services, job_id, 200)
    end(services, job_id)
    assert all(listener.finish() == list(range(1, 203)) for listener in listeners)
    wait_for(lambda: redis.info("clients")["blocked_clients"] == 0)


def test_a_client_that_leaves_ends_its_feed(admin, services):
    job_id = submit(services)
    redis = redis_client(services.settings.redis)
    with admin.stream("GET", f"/v1/jobs/{job_id}/events", headers=SSE) as answer:
        events = events_of(answer.iter_lines())
        assert next(events)["seq"] == 1
        wait_for(lambda: redis.info("clients")["blocked_clients"] == 1)
    wait_for(lambda: redis.info("clients")["blocked_clients"] == 0)


def test_a_silent_stream_sends_comments(admin, services, monkeypatch):
    monkeypatch.setattr(hub, "HEARTBEAT_S", 0.05)
    job_id = submit(services)
    with admin.stream("GET", f"/v1/jobs/{job_id}/events", headers=SSE) as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(comments) for _ in range(3)] == [": keep-alive"] * 3


def test_a_client_that_does_not_read_is_bounded_and_misses_nothing(admin, base_url, services, monkeypatch):
    monkeypatch.setattr(feed, "CAPACITY", 50)
    job_id = submit(services)
    with admin.stream("GET", f"/v1/jobs/{job_id}/events", headers=SSE) as answer:
        lines = answer.iter_lines()
        found = events_of(lines)
        assert next(found)["seq"] == 1
        for n in range(40):
            say(services, job_id, 100, n * 100)
        end(services, job_id)
        assert [event["seq"] for event in found] == list(range(2, 4003))


@pytest.fixture
def without_redis(settings: Settings) -> Iterator[str]:
    lone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with serve(lone) as url:
        yield url


def test_events_and_submissions_go_on_without_redis(without_redis, services):
    job_id = submit(services)
    with client_for(without_redis, services.keys.create("admin", "admin")[1]) as client:
        listener = Listener(client, job_id)
        wait_for(lambda: len(listener.events) == 1)
        say(services, job_id, 5)
        wait_for(lambda: len(listener.events) == 6)
        assert client.get("/readyz").json() == {
            "status": "ready",
            "parts": {"database": "ok", "storage": "ok", "redis": "away", "disk": "ok"},
        }
        started = time.monotonic()
        assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
        assert time.monotonic() - started < 1
        assert listener.finish() == list(range(1, 8))


def test_the_log_is_followed_through_attempts_until_the_job_ends(admin, services):
    job_id = submit(services)
    services.storage.put_bytes(f"jobs/{job_id}/logs/attempt-1.log", "first ü\n".encode())
    assert admin.get(f"/v1/jobs/{job_id}/logs").text == "first ü\n"
    pieces: list[str] = []

    def follow() -> None:
        with admin.stream("GET", f"/v1/jobs/{job_id}/logs?follow=true") as answer:
            pieces.extend(answer.iter_text())

    thread = threading.Thread(target=follow)
    thread.start()
    services.storage.put_bytes(f"jobs/{job_id}/logs/attempt-1.log", "first ü\nmore\n".encode())
    services.storage.put_bytes(f"jobs/{job_id}/logs/attempt-2.log", b"second\n" * 20_000)
    services.storage.put_bytes(f"jobs/{job_id}/logs/attempt-10.log", b"tenth\n")
    end(services, job_id)
    thread.join(20)
    assert "".join(pieces) == "first ü\nmore\n" + "second\n" * 20_000 + "tenth\n"
