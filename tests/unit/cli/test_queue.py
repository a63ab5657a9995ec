"""`opensloth queue` and `opensloth top`."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from opensloth.cli.box import Box, draw
from opensloth.cli.formats import moment, parse_time
from opensloth.client import Job
from opensloth.remote.shapes import Device, QueueEntry, Use
from tests.support.fake_api import job, problem

ID = "ftjob-" + "c" * 24
ENTRIES = [
    {"object": "queue.entry", "position": 1, "devices": 4, "expected_start": "2031-01-05T12:00:00Z"},
    {"object": "queue.entry", "position": 2, "devices": 1, "expected_start": None, "id": ID, "name": "tone",
     "owner": "ann", "priority": "high", "waiting_for": "1 GPU; 1 job is before it"},
]  # fmt: skip
DEVICES = [
    {"id": "GPU-0", "host_id": "box", "index": 0, "kind": "cuda", "name": "H100", "memory_bytes": 80_000_000_000,
     "used_bytes": 40_000_000_000, "foreign_bytes": 3_000_000_000, "utilization": 97, "temperature": 64,
     "jobs": [job()["id"], None]},
    {"id": "GPU-1", "host_id": "box", "index": 1, "kind": "cuda", "name": "H100", "memory_bytes": 80_000_000_000,
     "used_bytes": 0, "quarantined": "it fell off the bus", "jobs": []},
    {"id": "GPU-2", "host_id": "box", "index": 2, "kind": "cuda", "name": "H100", "memory_bytes": 80_000_000_000,
     "used_bytes": 0, "draining": True, "jobs": []},
]  # fmt: skip
RUNNING = job("running", owner="ben", devices=["GPU-0"], progress={"step": 3, "percent": 45.0, "eta_s": 42.0})
USAGE = [{"owner": "ann", "device_s": 7200.0, "devices": 0}, {"owner": "ben", "device_s": 1800.0, "devices": 1}]


def listed(data):
    return {"object": "list", "data": data, "has_more": False}


@pytest.fixture
def box(api):
    api.on("GET /v1/queue", listed(ENTRIES))
    api.on("GET /v1/usage", listed(USAGE))
    api.on("GET /v1/devices", listed(DEVICES))
    api.on("GET /v1/jobs", listed([RUNNING]))
    return api


def test_the_queue_has_a_line_for_each_place(box, run):
    lines = run("queue").out.splitlines()
    assert lines[0].split()[:3] == ["#", "Job", "Name"]
    assert lines[1].split()[:4] == ["1", "-", "another", "team's"]
    assert moment("2031-01-05T12:00:00Z") in lines[1]
    assert lines[2].split()[:4] == ["2", ID, "tone", "ann"]
    assert lines[2].endswith("1 GPU; 1 job is before it")


def test_the_queue_is_read_through_all_pages(api, run):
    pages = [{**listed(ENTRIES[:1]), "has_more": True}, listed(ENTRIES[1:])]
    api.on("GET /v1/queue", *pages)
    assert [entry["position"] for entry in json.loads(run("queue", "--json").out)] == [1, 2]
    assert [request.url.params["after"] for request in api.seen("GET /v1/queue")] == ["0", "1"]


def test_an_empty_queue_says_so(api, run):
    api.on("GET /v1/queue", listed([]))
    done = run("queue")
    assert (done.code, done.out, done.err) == (0, "", "The queue is empty.\n")


def test_top_prints_the_box_once_where_there_is_no_terminal(box, run):
    done = run("top")
    assert done.code == 0
    assert "1 of 3 devices with jobs, 1 running, 2 queued, 2 out of service" in done.out
    line = next(line for line in done.out.splitlines() if line.startswith("box:0"))
    assert "40.0 GB of 80.0 GB, 3.0 GB foreign" in line
    assert "97%" in line
    assert line.endswith("tone (ben) 45%, 0:42 left; another team's")
    assert "out of service: it fell off the bus" in done.out
    assert "2.0 device hours" in done.out
    assert len(box.requests) == 4


def test_top_has_everything_as_json(box, run):
    seen = json.loads(run("top", "--json").out)
    assert [len(seen[name]) for name in ("devices", "running", "queue", "usage")] == [3, 1, 2, 2]
    assert seen["devices"][0]["utilization"] == 97


def test_top_says_when_the_server_is_away(box, run):
    box.on("GET /v1/usage", problem(503, "database_unavailable", "the database does not answer"))
    assert run("top").code != 0


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (60, 16)])
def test_the_picture_fits_its_screen_however_long_the_queue_is(width, height):
    entries = [QueueEntry(**{**ENTRIES[1], "position": n + 1, "waiting_for": "x" * 300}) for n in range(150)]
    seen = Box("http://box", [Device(**d) for d in DEVICES], [Job(**RUNNING)], entries, [Use(**u) for u in USAGE])
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    console.print(draw(seen, width=width, height=height))
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= height
    assert any("more; `opensloth queue` shows them" in line for line in lines)


def test_a_moment_is_on_this_machines_clock_with_its_day_if_it_is_another():
    now = parse_time("2031-01-05T12:00:00Z")
    assert moment("2031-01-05T12:20:00Z", now) == parse_time("2031-01-05T12:20:00Z").astimezone().strftime("%H:%M")
    assert moment("2031-01-08T12:20:00Z", now).startswith("Wed ")
    assert moment(None) == "-"
