"""`opensloth devices`."""

from __future__ import annotations

import json

import pytest

from opensloth.cli.devices import named
from opensloth.client import Device, NotFound

DEVICES = [
    {
        "id": "GPU-0aaa", "host_id": "box", "index": 0, "kind": "cuda", "name": "NVIDIA H100", "health": "ok",
        "memory_bytes": 80_000_000_000, "used_bytes": 40_000_000_000, "foreign_bytes": 3_000_000_000,
        "holders": [{"job_id": "ftjob-1", "name": "tone", "owner": "mara", "used_bytes": 37_000_000_000},
                    {"job_id": None, "name": None, "owner": None, "used_bytes": None}],
    },
    {
        "id": "GPU-1bbb", "host_id": "box", "index": 1, "kind": "cuda", "name": "NVIDIA H100", "health": "quarantined",
        "quarantined": "Xid 79", "quarantined_at": "2026-01-01T00:00:00Z", "memory_bytes": 80_000_000_000,
    },
]  # fmt: skip


@pytest.fixture
def box(api):
    api.on("GET /v1/devices", {"object": "list", "data": DEVICES, "has_more": False})
    return api


def test_each_device_has_a_line(box, run):
    lines = run("devices").out.splitlines()
    assert "box:0" in lines[1]
    assert "40.0 GB of 80.0 GB" in lines[1]
    assert "tone (mara) 37.0 GB; another team's job" in lines[1]
    assert "Xid 79" in lines[2]
    assert [entry["id"] for entry in json.loads(run("devices", "--json").out)] == ["GPU-0aaa", "GPU-1bbb"]


def test_a_box_without_a_worker_says_so(api, run):
    api.on("GET /v1/devices", {"object": "list", "data": [], "has_more": False})
    assert "No worker" in run("devices").err


@pytest.mark.parametrize("what", ["drain", "undrain", "release"])
def test_a_device_is_named_by_index_host_and_index_or_the_beginning_of_its_id(box, run, what):
    box.on(f"POST /v1/devices/GPU-1bbb/{what}", DEVICES[1])
    for name in ("1", "box:1", "GPU-1", "GPU-1bbb"):
        done = run("devices", what, name)
        assert (done.code, done.out) == (0, "")
        assert "box:1 (GPU-1bbb)" in done.err
    assert json.loads(run("devices", what, "1", "--json").out)["id"] == "GPU-1bbb"


def test_a_name_that_fits_none_or_several_is_refused():
    found = [Device(**entry) for entry in DEVICES]
    for name, why in (("GPU-", "several devices"), ("7", "no device"), ("", "no device")):
        with pytest.raises(NotFound, match=why):
            named(name, found)
    with pytest.raises(NotFound, match="no device"):
        named("1", [*found, Device(id="GPU-9", host_id="other", index=1)])
