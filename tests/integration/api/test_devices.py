"""`/v1/devices` over HTTP: who sees what, and who may take a device out of service."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from opensloth.accounts.callers import Caller
from opensloth.devices.inventory import FoundDevice
from opensloth.devices.readings import Process, Reading
from opensloth.devices.rows import HostRow
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.on_devices import DeviceViews
from opensloth.jobs.planning import plan_round
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, submit

GIB = 1 << 30


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"host_timeout_s": 600.0, "lease_s": 600.0})  # no worker runs here


@pytest.fixture
def box(services: Services) -> Services:
    services.devices.register(
        "box", [FoundDevice(f"GPU-{n}", "cuda", n, "NVIDIA H100", 80 * GIB, bf16=True) for n in range(2)]
    )
    return services


def place(services: Services) -> str:
    job_id = submit(services, "tone")
    assert plan_round(services.database, services.events, services.publisher, services.settings) == 1
    return job_id


def test_each_device_shows_its_memory_its_health_and_what_runs_on_it(box, member):
    job_id = place(box)
    processes = (Process(10, 30 * GIB, job_id), Process(99, 2 * GIB))
    box.devices.beat("box", {"GPU-0": Reading(1.0, 32 * GIB, 2 * GIB, processes, 97, 64)})
    page = member.get("/v1/devices").json()
    first, second = page["data"]
    assert (page["first_id"], page["has_more"]) == ("GPU-0", False)
    assert (first["host_id"], first["index"], first["name"], first["kind"]) == ("box", 0, "NVIDIA H100", "cuda")
    assert (first["memory_bytes"], first["used_bytes"], first["free_bytes"]) == (80 * GIB, 32 * GIB, 48 * GIB)
    assert (first["foreign_bytes"], first["utilization"], first["temperature"]) == (2 * GIB, 97, 64)
    assert first["foreign"] == [{"pid": 99, "bytes": 2 * GIB}]
    assert (first["health"], first["jobs"]) == ("ok", [job_id])
    (holder,) = first["holders"]
    assert (holder["name"], holder["owner"], holder["used_bytes"]) == ("tone", "admin", 30 * GIB)
    assert (second["used_bytes"], second["free_bytes"], second["jobs"]) == (None, None, [])
    assert member.get("/v1/devices/GPU-0").json() == first


def test_a_job_of_another_team_has_no_name(box):
    place(box)
    views = DeviceViews(box.database, box.settings)
    seen = views.get("GPU-0", Caller("eve", "member", "another"))
    assert seen.jobs == [None]
    assert (seen.holders[0].job_id, seen.holders[0].name, seen.holders[0].owner) == (None, None, None)


def test_an_admin_drains_a_device_and_lets_jobs_on_it_again(box, admin, member):
    assert member.post("/v1/devices/GPU-0/drain").status_code == 403
    for _ in range(2):
        drained = admin.post("/v1/devices/GPU-0/drain")
        assert (drained.status_code, drained.json()["health"], drained.json()["draining"]) == (200, "draining", True)
    assert member.post("/v1/devices/GPU-0/undrain").status_code == 403
    assert admin.post("/v1/devices/GPU-0/undrain").json()["health"] == "ok"


def test_an_admin_puts_a_quarantined_device_back(box, admin, member):
    box.devices.quarantine("GPU-0", "Xid 79: the GPU has fallen off the bus")
    box.devices.quarantine("GPU-0", "a later reason")
    shown = member.get("/v1/devices/GPU-0").json()
    assert (shown["health"], shown["quarantined"]) == ("quarantined", "Xid 79: the GPU has fallen off the bus")
    assert shown["quarantined_at"]
    assert member.post("/v1/devices/GPU-0/release").status_code == 403
    assert admin.post("/v1/devices/GPU-0/release").json()["health"] == "ok"
    again = admin.post("/v1/devices/GPU-0/release")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert "not quarantined" in again.json()["detail"]


def test_a_device_that_is_not_there_is_404(box, admin):
    for answer in (admin.get("/v1/devices/GPU-9"), *(admin.post(f"/v1/devices/GPU-9/{do}") for do in
                   ("drain", "undrain", "release"))):  # fmt: skip
        assert answer.status_code == 404
        assert "opensloth devices" in answer.json()["hint"]


def test_devices_of_a_host_that_is_silent_are_away(box, member):
    with box.database.write() as session:
        session.execute(update(HostRow).values(seen_at=1.0))
    assert {entry["health"] for entry in member.get("/v1/devices").json()["data"]} == {"away"}


def test_a_device_that_was_taken_out_gets_a_lease_kept_until_its_job_ends(box):
    place(box)
    box.devices.register("box", [FoundDevice("GPU-1", "cuda", 1, "NVIDIA H100", 80 * GIB)])
    assert {view.id for view in DeviceViews(box.database, box.settings).all(ADMIN)} == {"GPU-0", "GPU-1"}
    attempts = AttemptService(box.database, box.events, box.publisher, box.settings)
    (placed,) = attempts.take_up("box")
    assert placed.device_ids == ("GPU-0",)


def test_a_quarantined_device_that_is_gone_is_shown_until_it_is_released(box, admin):
    box.devices.quarantine("GPU-1", "it is lost")
    left = [FoundDevice("GPU-0", "cuda", 0, "NVIDIA H100", 80 * GIB)]
    box.devices.register("box", left)
    assert [entry["health"] for entry in admin.get("/v1/devices").json()["data"]] == ["ok", "quarantined"]
    admin.post("/v1/devices/GPU-1/release")
    box.devices.register("box", left)
    assert [entry["id"] for entry in admin.get("/v1/devices").json()["data"]] == ["GPU-0"]
