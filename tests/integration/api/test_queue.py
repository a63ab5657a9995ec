"""`/v1/queue`, `/v1/usage` and what a queued job shows."""

from __future__ import annotations

from sqlalchemy import update

from opensloth.accounts.rows import TeamRow, UsageRow
from opensloth.jobs.rows import AttemptRow, JobRow
from tests.support.boxes import add_host, add_job, now_of, plan_now


def test_the_queue_names_the_callers_own_team_alone(admin, member, services):
    add_host(services, 1)
    with services.database.write() as session:
        session.add(TeamRow(name="red", created_at=0.0))
    add_job(services, "ann", team="red", expected_s=900.0)
    plan_now(services)
    theirs, ours = add_job(services, "ann", team="red"), add_job(services, "bob")
    seen = admin.get("/v1/queue").json()
    assert (seen["object"], seen["has_more"]) == ("list", False)
    assert {entry["id"] for entry in seen["data"]} == {theirs, ours}
    assert [entry["position"] for entry in seen["data"]] == [1, 2]
    assert {entry["id"] for entry in member.get("/v1/queue").json()["data"]} == {None, ours}
    second = admin.get("/v1/queue", params={"limit": 1, "after": 1}).json()
    assert [entry["position"] for entry in second["data"]] == [2]
    told = member.get(f"/v1/jobs/{ours}").json()["queue"]
    assert told["waiting_for"].startswith("1 GPU; ")
    assert theirs not in told["waiting_for"]
    assert admin.get("/v1/queue", params={"limt": 1}).json()["errors"][0]["path"] == "limt"
    assert admin.get("/v1/queue", params={"after": -1}).status_code == 422


def test_usage_is_what_was_booked_and_what_runs(admin, member, services):
    add_host(services, 4)
    today = int(now_of(services) // 86400)
    with services.database.write() as session:
        session.add(TeamRow(name="red", created_at=0.0))
        for owner, team, day, device_s in (
            ("bob", "default", today, 100.0),
            ("bob", "default", today - 3, 50.0),
            ("bob", "default", today - 30, 9000.0),
            ("ann", "red", today, 1000.0),
        ):
            session.add(UsageRow(owner=owner, team=team, day=day, device_s=device_s))
    job_id = add_job(services, "bob", 2)
    plan_now(services)
    with services.database.write() as session:
        long_ago = update(AttemptRow).where(AttemptRow.job_id == job_id)
        session.execute(long_ago.values(placed_at=now_of(services) - 500))
        session.execute(update(JobRow).where(JobRow.id == job_id).values(state="running"))
    users = admin.get("/v1/usage").json()["data"]
    assert [(user["owner"], user["team"], user["devices"]) for user in users] == [
        ("bob", "default", 2),
        ("ann", "red", 0),
    ]
    assert 1150 <= users[0]["device_s"] <= 1300
    assert [user["owner"] for user in member.get("/v1/usage", params={"days": 1}).json()["data"]] == ["bob"]
