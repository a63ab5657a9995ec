"""Events are numbered without gaps, whoever writes them, and metrics read as those of one uninterrupted run."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from opensloth.events.publisher import Publisher, redis_client, stream_key
from opensloth.events.records import Record
from opensloth.services import Services
from tests.support.jobs import submit, wait_for


def append(services: Services, job_id: str, attempt: int, *records: Record) -> None:
    with services.database.write() as session:
        services.events.append(session, job_id, attempt, records)


def metric(step: int, loss: float) -> Record:
    return Record(type="metrics", message="", data={"step": step, "metrics": {"loss": loss}})


def test_concurrent_writers_make_no_gap_and_no_double(services: Services) -> None:
    job_id = submit(services)
    threads = [
        threading.Thread(
            target=lambda: [append(services, job_id, 1, metric(1, 1.0), metric(2, 1.0)) for _ in range(10)]
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in services.events.list(job_id, limit=1000)] == list(range(1, 82))


def test_a_rolled_back_append_uses_no_number_and_publishes_nothing(services: Services) -> None:
    job_id = submit(services)

    def append_and_fail() -> None:
        with services.database.write() as session:
            services.events.append(session, job_id, 1, [metric(1, 1.0)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        append_and_fail()
    append(services, job_id, 1, metric(2, 1.0))
    assert [event.data.get("step") for event in services.events.list(job_id)] == [None, 2]
    client = redis_client(services.settings.redis)
    wait_for(lambda: client.xlen(stream_key(job_id)) == 2)
    assert [entry_id for entry_id, _ in client.xrange(stream_key(job_id))] == [b"1-0", b"2-0"]


def test_points_beyond_the_checkpoint_that_a_later_attempt_resumed_from_are_left_out(services: Services) -> None:
    job_id = submit(services)
    append(services, job_id, 1, *(metric(step, 1.0) for step in range(1, 8)))
    append(services, job_id, 2, *(metric(step, 2.0) for step in range(6, 8)))
    append(services, job_id, 3, *(metric(step, 3.0) for step in range(4, 6)))
    (series,) = services.events.metrics(job_id, {1: 0, 2: 5, 3: 3})
    assert [(point["step"], point["value"]) for point in series["points"]] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 3.0), (5, 3.0),
    ]  # fmt: skip


@pytest.mark.parametrize(("most", "steps"), [(None, list(range(1, 102))), (3, [1, 51, 101]), (1, [101])])
def test_downsampling_keeps_the_first_and_the_last_point(
    services: Services, most: int | None, steps: list[int]
) -> None:
    job_id = submit(services)
    append(services, job_id, 1, *(metric(step, 1.0) for step in range(1, 102)))
    (series,) = services.events.metrics(job_id, {}, max_points=most)
    assert [point["step"] for point in series["points"]] == steps


def test_what_json_and_postgresql_do_not_know_becomes_null_or_goes(services: Services) -> None:
    job_id = submit(services)
    data: dict[str, Any] = {"a": float("nan"), "b": [float("inf"), 1.5], "c": "x\0y"}
    append(services, job_id, 1, Record(type="log", message="m", data=data))
    assert services.events.list(job_id)[-1].data == {"a": None, "b": [None, 1.5], "c": "xy"}


def test_a_publisher_without_redis_delays_nobody() -> None:
    publisher = Publisher("redis://127.0.0.1:1/0", capacity=10)
    for _ in range(1000):
        publisher.wake_planner()
        publisher.wake_host("box")
