import threading

import httpx
import pytest

from opensloth.accounts.keys import Caller
from opensloth.services import Services
from tests.support.jobs import add_file, add_model, body, submit


@pytest.fixture
def job_body(services: Services) -> dict:
    add_model(services)
    return body(services, add_file(services))


def test_a_job_is_accepted_and_shown(admin, job_body):
    answer = admin.post("/v1/jobs", json=job_body)
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["id"].startswith("ftjob-")
    assert (job["object"], job["state"], job["owner"], job["spec"]) == ("job", "queued", "admin", job_body)
    assert admin.get(answer.headers["location"]).json()["queue"]["waiting_for"].startswith("a worker")
    for shown in (admin.get(answer.headers["location"]).json(), admin.get("/v1/jobs").json()["data"][0]):
        assert shown | {"queue": None} == job  # its place in the queue is worked out once it has one


def test_an_idempotency_key_makes_one_job_however_often_it_comes(admin, base_url, job_body):
    answers: list[httpx.Response] = []
    headers = {"Idempotency-Key": "nightly-1", **admin.headers}

    def send() -> None:
        answers.append(httpx.post(f"{base_url}/v1/jobs", json=job_body, headers=headers, timeout=30))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 5
    other = admin.post("/v1/jobs", json={**job_body, "name": "other"}, headers={"Idempotency-Key": "nightly-1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    for bad in ("", "x" * 256, "a b"):
        answer = admin.post("/v1/jobs", json=job_body, headers={"Idempotency-Key": bad})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "Idempotency-Key")


def test_jobs_are_listed_by_state_owner_and_metadata_page_by_page(admin, member, job_body):
    mine = [admin.post("/v1/jobs", json={**job_body, "metadata": {"run": str(n % 2)}}).json()["id"] for n in range(4)]
    theirs = member.post("/v1/jobs", json=job_body).json()["id"]
    admin.post(f"/v1/jobs/{mine[0]}/cancel")

    def ids(**params: object) -> list[str]:
        return [job["id"] for job in admin.get("/v1/jobs", params=params).json()["data"]]

    assert ids() == [theirs, *mine[::-1]]
    assert ids(owner="bob") == [theirs]
    assert ids(state="cancelled") == [mine[0]]
    assert ids(state=["queued", "cancelled"], owner="admin") == mine[::-1]
    assert ids(state="queued,cancelled", owner="admin") == mine[::-1]
    assert ids(**{"metadata[run]": "1"}) == [mine[3], mine[1]]
    assert ids(**{"metadata.run": "0"}) == [mine[2], mine[0]]
    assert ids(**{"metadata[run]": "1", "metadata[other]": "x"}) == []
    first = admin.get("/v1/jobs?limit=2").json()
    assert first["has_more"] is True
    assert ids(limit=100, after=first["last_id"]) == mine[2::-1]


def test_a_filter_that_means_nothing_is_refused(admin):
    for query, path in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("after=ftjob-none", "after"),
        ("state=sleeping", "state"),
        ("stat=queued", "stat"),
        ("metadata=x", "metadata"),
        ("metadata[]=x", "metadata[]"),
    ]:
        answer = admin.get(f"/v1/jobs?{query}")
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)


def test_an_unknown_parameter_names_the_nearest_real_one(admin):
    assert "did you mean `state`?" in admin.get("/v1/jobs?stat=queued").json()["errors"][0]["message"]


def test_a_wrong_spec_names_each_field(admin, job_body):
    wrong = {**job_body, "training_args": {"learning_rat": 1e-4, "num_train_epochs": -1}}
    paths = {error["path"] for error in admin.post("/v1/jobs", json=wrong).json()["errors"]}
    assert paths == {"training_args.learning_rat", "training_args.num_train_epochs"}


def test_nan_and_infinity_are_named_with_their_field(admin, job_body):
    config = str(job_body).replace("'", '"')
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        raw = config[:-1] + f', "training_args": {{"learning_rate": {value}}}}}'
        answer = admin.post("/v1/jobs", content=raw, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "training_args.learning_rate")


def test_a_job_is_cancelled_by_its_owner_or_an_admin_only(admin, member, services):
    job_id = submit(services)
    assert member.post(f"/v1/jobs/{job_id}/cancel").status_code == 403
    assert admin.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert admin.post(f"/v1/jobs/{job_id}/cancel").status_code == 200


def test_an_unknown_job_is_not_found_whatever_its_id(admin):
    paths = ["", "/cancel", "/events", "/metrics", "/logs", "/checkpoints", "/artifacts", "/artifacts/all.zip"]
    for job_id in ["ftjob-none", "..%2f..%2fetc", "%00", "a" * 3000, "ü%ff", "'; drop table jobs"]:
        for path in [*paths, "/artifacts/a/b"]:
            answer = admin.request("POST" if path == "/cancel" else "GET", f"/v1/jobs/{job_id}{path}")
            assert answer.status_code == (400 if "%00" in job_id else 404), (job_id, path)
            assert answer.headers["content-type"] == "application/problem+json"


def test_metrics_are_one_series_a_name_and_downsampled_on_request(admin, services):
    from opensloth.events.records import Record

    job_id = submit(services)
    records = [
        Record(type="metrics", message="m", data={"step": n, "metrics": {"loss": 1 / n, "grad_norm": 1.0}})
        for n in range(1, 101)
    ]
    with services.database.write() as session:
        services.events.append(session, job_id, 1, records)
    body = admin.get(f"/v1/jobs/{job_id}/metrics").json()
    assert [series["name"] for series in body["data"]] == ["grad_norm", "loss"]
    loss = admin.get(f"/v1/jobs/{job_id}/metrics?name=loss&max_points=11").json()["data"]
    assert [series["name"] for series in loss] == ["loss"]
    points = loss[0]["points"]
    assert (len(points), points[0]["step"], points[-1]["step"]) == (11, 1, 100)
    assert points[0].keys() == {"step", "value", "time"}


def test_checkpoints_are_listed(admin, services):
    from opensloth.jobs.rows import CheckpointRow

    job_id = submit(services)
    assert admin.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] == []
    with services.database.write() as session:
        for step in (4, 8):
            session.add(
                CheckpointRow(
                    job_id=job_id, step=step, attempt=1, key="k", bytes=1, save_s=0.1, metrics={}, created_at=1.0
                )
            )
    assert [entry["step"] for entry in admin.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]] == [8, 4]


def test_a_job_comes_as_a_script_once_it_is_resolved(admin, services):
    from opensloth.jobs.rows import JobRow
    from opensloth.jobs.spec import parse_job_spec
    from opensloth.resolve import DeviceFacts, resolve

    job_id = submit(services)
    early = admin.get(f"/v1/jobs/{job_id}/script")
    assert (early.status_code, early.json()["code"]) == (409, "not_resolved")
    facts = DeviceFacts(kind="cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False, count=1)
    with services.database.write() as session:
        row = session.get_one(JobRow, job_id)
        spec = parse_job_spec(row.spec)
        row.resolved = resolve(spec.opensloth_config, spec.training_args, facts).to_json()
    script = admin.get(f"/v1/jobs/{job_id}/script")
    assert script.headers["content-type"].startswith("text/plain")
    compile(script.text, "script.py", "exec")
    assert "SFTTrainer" in script.text
    assert "data.jsonl" in script.text
    assert "[chat(row) for row in rows]" in script.text, "the check of the file knows its form"


def test_a_job_of_a_plugin_has_no_script(admin, services):
    from opensloth.jobs.rows import JobRow

    job_id = submit(services)
    with services.database.write() as session:
        row = session.get_one(JobRow, job_id)
        config = {**row.spec["opensloth_config"], "training_type": "ours"}
        row.resolved = {"opensloth_config": config, "training_args": {}, "engine": "transformers", "device": "cpu"}
    script = admin.get(f"/v1/jobs/{job_id}/script")
    assert (script.status_code, script.json()["code"]) == (409, "no_script")
    assert "plugin" in script.json()["detail"]


def test_another_spelling_of_the_caller_is_not_the_caller(services, job_body):
    job, _ = services.jobs.submit(job_body, Caller("Bob", "member"))
    assert services.jobs.get(job.id, Caller("bob", "member")).owner == "Bob"
