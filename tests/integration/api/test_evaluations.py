"""`/v1/jobs/{id}/evaluations` over HTTP, on both databases; what they compute is tested with a worker."""

from __future__ import annotations

import json

from sqlalchemy import update

from opensloth.jobs.rows import JobRow
from tests.support.exports import finished_job
from tests.support.jobs import ADMIN, add_file, add_model, body, submit

GRADER = {"name": "regex", "params": {"pattern": "a"}}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_output": [{"role": "assistant", "content": "Hello"}],
    "non_preferred_output": [{"role": "assistant", "content": "What"}],
}


def adapter(tmp_path):
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}')
    return folder


def store(services, tmp_path, job_id, rows):
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"rows": len(rows), "measures": {}}))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    services.storage.put_tree(folder, f"jobs/{job_id}/artifacts")
    with services.database.write() as session:
        values = {"state": "succeeded", "result": {"model": None, "artifacts": []}}
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))


def test_an_evaluation_is_a_job_of_its_own_and_gives_what_it_found(admin, services, tmp_path):
    add_model(services)
    source, file = finished_job(services, adapter(tmp_path)), add_file(services)
    url = f"/v1/jobs/{source}/evaluations"
    made = admin.post(url, json={"graders": [GRADER], "dataset": file}, headers={"Idempotency-Key": "once"})
    job = made.json()
    assert (made.status_code, made.headers["Location"]) == (201, f"{url}/{job['id']}")
    assert (job["kind"], job["export_of"], job["state"], job["dataset_id"]) == ("evaluation", source, "queued", file)
    again = admin.post(url, json={"graders": [GRADER], "dataset": file}, headers={"Idempotency-Key": "once"})
    assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (job["id"], "true")
    assert admin.delete(f"/v1/files/{file}").json()["code"] == "in_use"
    assert admin.get(f"/v1/jobs/{source}/exports").json()["data"] == []
    assert admin.get(f"{url}/{job['id']}").json()["summary"] is None
    assert admin.get(f"{url}/{job['id']}/rows").json()["code"] == "no_result"
    rows = [
        {"row": n, "prompt": "p", "scores": {"a": {"base": 0.0, "result": float(n % 2)}}, "changed": n % 2 == 1}
        for n in range(1, 6)
    ]
    store(services, tmp_path, job["id"], rows)
    (listed,) = admin.get(url).json()["data"]
    assert (listed["id"], listed["summary"]["rows"]) == (job["id"], 5)
    page = admin.get(f"{url}/{job['id']}/rows", params={"changed": True, "limit": 2}).json()
    assert ([row["row"] for row in page["data"]], page["has_more"]) == ([1, 3], True)
    page = admin.get(f"{url}/{job['id']}/rows", params={"changed": True, "after": 3}).json()
    assert ([row["row"] for row in page["data"]], page["has_more"]) == ([5], False)
    other = submit(services)
    assert admin.get(f"/v1/jobs/{other}/evaluations/{job['id']}").status_code == 404
    assert admin.get(f"/v1/jobs/{job['id']}/script").status_code == 409


def test_what_cannot_be_evaluated_says_why(admin, services, tmp_path):
    add_model(services)
    source, file = finished_job(services, adapter(tmp_path)), add_file(services)
    pairs = add_file(services, [PAIR])
    for sent, path, words in [
        ({"graders": [GRADER]}, "dataset", "kept no rows"),
        ({"dataset": file}, "graders", "name at least one"),
        ({"dataset": file, "graders": [GRADER, {"name": "regx"}]}, "graders[1].name", "did you mean 'regex'"),
        ({"dataset": file, "graders": [{"type": "score_model", "name": "x"}]}, "graders[0].type", "another model"),
        ({"dataset": file, "graders": ["exact_match"]}, "graders[0]", "`answer`"),
        ({"dataset": file, "judge": "preferences"}, "dataset.rows[1]", "dpo needs"),
        ({"dataset": pairs, "judge": "preferences", "graders": [GRADER]}, "graders", "leave it out"),
        ({"dataset": "file-none", "graders": [GRADER]}, "dataset", "there is no file"),
        ({"dataset": file, "graders": [GRADER], "row": 1}, "row", "did you mean `rows`"),
        ({"dataset": file, "graders": [GRADER], "rows": 0}, "rows", "greater than or equal to 1"),
    ]:
        answer = admin.post(f"/v1/jobs/{source}/evaluations", json=sent)
        (problem, *_) = answer.json()["errors"]
        assert (answer.status_code, problem["path"]) == (422, path), answer.text
        assert words in problem["message"]
    assert admin.post("/v1/jobs/ftjob-none/evaluations", json={}).status_code == 404
    made = admin.post(f"/v1/jobs/{source}/evaluations", json={"dataset": pairs, "judge": "preferences"}).json()
    of_itself = admin.post(f"/v1/jobs/{made['id']}/evaluations", json={"dataset": pairs, "graders": [GRADER]})
    assert of_itself.json()["code"] == "no_result"


def test_an_evaluation_of_a_job_that_runs_waits_for_it_on_the_rows_that_the_job_keeps(admin, services):
    add_model(services)
    asked = body(services, add_file(services))
    asked["opensloth_config"]["eval_split"] = 0.5
    source = services.jobs.submit(asked, ADMIN)[0].id
    waiting = admin.post(f"/v1/jobs/{source}/evaluations", json={"graders": [GRADER]}).json()
    assert (waiting["state"], waiting["depends_on"]) == ("waiting", [source])
    admin.post(f"/v1/jobs/{source}/cancel")
    assert admin.get(f"/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"
