"""Pause, resume, retry, order, deletion and cleaning over HTTP."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from opensloth.accounts.rows import UserRow
from opensloth.devices.inventory import FoundDevice
from opensloth.jobs.rows import CheckpointRow, JobRow
from opensloth.storage import space
from tests.support.jobs import ADMIN, submit

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def over(services, job_id: str, state: str = "failed") -> str:
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(state=state, ended_at=1.0))
    return job_id


def test_a_job_is_paused_and_resumed(admin, services):
    job_id = submit(services)
    assert admin.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "paused"
    assert admin.post(f"/v1/jobs/{job_id}/pause").status_code == 200
    assert admin.post(f"/v1/jobs/{job_id}/resume").json()["state"] == "queued"
    with services.database.write() as session:
        values = {"state": "stopping", "stop_intent": "pause"}
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))
    refused = admin.post(f"/v1/jobs/{job_id}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "stopping")
    assert "resume it once its state is `paused`" in refused.json()["hint"]


def test_a_running_job_is_cancelled_without_saving_if_asked(admin, services):
    job_id = submit(services)
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(state="running", attempt=1))
    assert admin.post(f"/v1/jobs/{job_id}/cancel").json()["stop_intent"] == "cancel"
    assert admin.post(f"/v1/jobs/{job_id}/cancel", json={"save": False}).json()["stop_intent"] == "kill"
    for wrong in ({"save": "no"}, {"sav": True}, [], 1):
        assert admin.post(f"/v1/jobs/{job_id}/cancel", json=wrong).status_code == 422


def test_a_retry_is_a_new_job_with_the_same_spec(admin, services):
    job_id = submit(services, "steps=5", metadata={"a": "b"})
    early = admin.post(f"/v1/jobs/{job_id}/retry")
    assert (early.status_code, early.json()["code"]) == (409, "not_over")
    over(services, job_id)
    headers = {"Idempotency-Key": "again"}
    made = admin.post(f"/v1/jobs/{job_id}/retry", headers=headers)
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/jobs/{made.json()['id']}"
    assert (made.json()["retry_of"], made.json()["state"]) == (job_id, "queued")
    assert made.json()["spec"] == admin.get(f"/v1/jobs/{job_id}").json()["spec"]
    replayed = admin.post(f"/v1/jobs/{job_id}/retry", headers=headers)
    assert (replayed.json()["id"], replayed.headers["idempotent-replayed"]) == (made.json()["id"], "true")
    other = admin.post(f"/v1/jobs/{job_id}/retry", json={"from_checkpoint": True}, headers=headers)
    assert other.status_code in (409, 422)
    none = admin.post(f"/v1/jobs/{job_id}/retry", json={"from_checkpoint": True})
    assert (none.status_code, none.json()["code"]) == (409, "no_checkpoint")


def test_a_retry_goes_on_from_the_newest_complete_checkpoint(admin, services):
    job_id = submit(services)
    for step in (4, 8, 12):
        key = f"jobs/{job_id}/checkpoints/step-{step:08d}"
        if step != 12:  # the row of one whose tree is gone
            folder = services.settings.home / f"step-{step}"
            folder.mkdir(parents=True)
            (folder / "state").write_text(str(step))
            services.storage.put_tree(folder, key)
        with services.database.write() as session:
            row = CheckpointRow(job_id=job_id, step=step, attempt=1, key=key, bytes=1, save_s=0.1, metrics={},
                                created_at=1.0)  # fmt: skip
            session.add(row)
    over(services, job_id)
    made = admin.post(f"/v1/jobs/{job_id}/retry", json={"from_checkpoint": True}).json()["id"]
    assert [found["step"] for found in admin.get(f"/v1/jobs/{made}/checkpoints").json()["data"]] == [8]
    refused = admin.delete(f"/v1/jobs/{job_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert made in refused.json()["detail"]
    admin.post(f"/v1/jobs/{made}/cancel")
    assert admin.delete(f"/v1/jobs/{job_id}").json() == {"id": job_id, "object": "job", "deleted": True}
    assert admin.get(f"/v1/jobs/{job_id}").status_code == 404
    assert admin.get(f"/v1/jobs/{made}/checkpoints").json()["data"] == []
    assert admin.delete(f"/v1/jobs/{job_id}").status_code == 404


def test_an_export_is_tried_again_too(admin, services):
    source = submit(services)
    made = admin.post(f"/v1/jobs/{source}/exports", json={"format": "merged_16bit"}).json()["id"]
    over(services, made)
    again = admin.post(f"/v1/jobs/{made}/retry").json()
    assert (again["kind"], again["export_of"], again["retry_of"]) == ("export", source, made)


def test_priority_and_order_are_changed(admin, member, services):
    first, second = submit(services), submit(services)
    assert admin.patch(f"/v1/jobs/{first}", json={"priority": "urgent"}).json()["priority"] == "urgent"
    assert admin.patch(f"/v1/jobs/{first}", json={"priority": "normal"}).json()["priority"] == "normal"
    assert admin.post(f"/v1/jobs/{second}/move", json={"before": first}).status_code == 200
    assert admin.post(f"/v1/jobs/{first}/move", json={"to": "front"}).status_code == 200
    wrong = [
        ({}, "body"),
        ({"to": "middle"}, "to"),
        ({"to": "front", "before": first}, "body"),
        ({"before": "ftjob-0"}, "before"),
    ]
    for body, path in wrong:
        answer = admin.post(f"/v1/jobs/{second}/move", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)
    for body in ({}, {"priority": "highest"}, {"name": "x"}):
        assert admin.patch(f"/v1/jobs/{first}", json=body).status_code == 422
    assert member.patch(f"/v1/jobs/{first}", json={"priority": "low"}).status_code == 403


def test_an_admin_cleans_and_sees_before_what_would_go(admin, member, services):
    store = services.storage.folder
    (store / "jobs" / "ftjob-gone").mkdir(parents=True)
    report = admin.post("/v1/gc", json={"dry_run": True})
    assert report.status_code == 200
    assert report.json() == {"object": "gc", "dry_run": True, "count": 0, "bytes": 0, "kinds": {}, "items": []}
    assert admin.post("/v1/gc").json()["dry_run"] is False
    assert member.post("/v1/gc").status_code == 403


def test_with_a_short_disk_submissions_and_uploads_are_answered_507(admin, services, monkeypatch):
    body = services.jobs.get(submit(services), ADMIN).spec
    monkeypatch.setattr(space, "shortage", lambda *_: "the storage has 0.01 GiB free")
    monkeypatch.setattr("api.routers.health.shortage", space.shortage)
    answer = admin.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")
    assert answer.json()["hint"]
    upload = admin.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", b'{"text": "a"}\n')})
    assert (upload.status_code, upload.json()["code"]) == (507, "insufficient_storage")
    ready = admin.get("/readyz")
    assert (ready.status_code, ready.json()["parts"]["disk"]) == (503, "short")


def test_a_command_is_leased_over_http_where_a_host_and_an_account_allow_it(admin, member, services):
    body = {"command": ["python", "mine.py"], "time_limit": "2h"}
    refused = admin.post("/v1/leases", json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "leases_off")
    services.devices.register("box", [FoundDevice("box:cpu0", "cpu", 0, "CPU slot", 2**30)], leases=True)
    with services.database.write() as session:
        session.execute(update(UserRow).where(UserRow.name == "admin").values(account="ann"))
    made = admin.post("/v1/leases", json=body)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/jobs/{made.json()['id']}"
    assert (made.json()["kind"], made.json()["spec"]) == ("command", body)
    assert admin.get(f"/v1/jobs/{made.json()['id']}/script").status_code == 409
    assert member.post("/v1/leases", json=body).json()["code"] == "no_account"
    wrong = admin.post("/v1/leases", json={**body, "command": "python mine.py"})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "command")
