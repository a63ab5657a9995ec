"""`/v1/pulls`, and jobs that name a dataset of the hub, as clients see them."""

from __future__ import annotations

from tests.support.jobs import add_model, body

WRONG = [
    "",
    "gsm8k",
    "a/b/c",
    "../../etc/passwd",
    "a/b\u0000",
    "a/b\u202e",
    "a/b[",
    "data/train.jsonl",
    7,
    None,
    ["a/b"],
]


def test_a_pull_is_begun_once_and_seen_until_it_is_there(admin, member):
    made = member.post("/v1/pulls", json={"dataset": "org/rows:main[test]"})
    assert made.status_code == 201
    pull = made.json()
    assert (pull["object"], pull["status"], pull["file"]) == ("dataset_pull", "importing", None)
    assert member.post("/v1/pulls", json={"dataset": "org/rows:main[test]"}).json() == pull
    assert member.get(f"/v1/pulls/{pull['id']}").json() == pull
    other = member.post("/v1/pulls", json={"dataset": "org/rows"}).json()
    page = member.get("/v1/pulls?limit=1").json()
    assert (page["data"], page["has_more"]) == ([other], True)
    assert member.get(f"/v1/pulls?after={other['id']}").json()["data"] == [pull]
    assert member.get("/v1/pulls/pull-none").status_code == 404
    assert member.get("/v1/pulls?after=pull-none").status_code == 422


def test_what_is_no_dataset_is_refused_by_pulls_and_jobs(admin, services):
    for wrong in WRONG:
        for answer in (
            admin.post("/v1/pulls", json={"dataset": wrong}),
            admin.post("/v1/jobs", json=body(services, wrong)),
        ):
            assert answer.status_code in (400, 422), wrong
            assert "dataset" in [error["path"] for error in answer.json()["errors"]], wrong


def test_a_job_waits_for_a_dataset_of_the_hub_and_names_what_is_wrong_with_it(admin, services):
    add_model(services)
    job = admin.post("/v1/jobs", json=body(services, "org/rows", eval_dataset="org/rows[test]")).json()
    assert (job["state"], job["dataset_id"], job["eval_dataset_id"]) == ("waiting", None, None)
    assert job["spec"]["dataset"] == "org/rows"
    assert len(admin.get("/v1/pulls").json()["data"]) == 2
    assert admin.get(f"/v1/jobs/{job['id']}/script").status_code == 409
    for more, field in (
        ({"eval_dataset": "org/rows"}, "eval_dataset"),
        ({"secrets": {"hub": "none"}}, "secrets.hub"),
        ({"secrets": {"hub": ""}}, "secrets.hub"),
        ({"secrets": {"hf": "x"}}, "secrets.hf"),
        ({"secrets": "hf"}, "secrets"),
    ):
        answer = admin.post("/v1/jobs", json=body(services, "org/rows", **more))
        assert (answer.status_code, [error["path"] for error in answer.json()["errors"]]) == (422, [field])
    answer = admin.post("/v1/pulls", json={"dataset": "org/rows", "secret": "none"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "secret")
    assert admin.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
