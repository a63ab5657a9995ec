"""`/v1/jobs/{id}/exports` and `/v1/secrets` over HTTP, on both databases."""

from __future__ import annotations

from tests.support.exports import finished_job
from tests.support.jobs import add_model, submit


def adapter(tmp_path, rank="8"):
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(f'{{"r": {rank}, "lora_alpha": 8, "target_modules": ["q_proj"]}}')
    return folder


def test_an_export_is_a_job_of_its_own_and_listed_with_its_source(admin, services, tmp_path):
    add_model(services)
    source = finished_job(services, adapter(tmp_path))
    made = admin.post(f"/v1/jobs/{source}/exports", json={"format": "gguf"})
    job = made.json()
    assert (made.status_code, made.headers["Location"]) == (201, f"/v1/jobs/{job['id']}")
    assert (job["kind"], job["export_of"], job["state"], job["name"]) == ("export", source, "queued", "tone q8_0")
    (listed,) = admin.get(f"/v1/jobs/{source}/exports").json()["data"]
    assert listed | {"queue": None} == job
    assert admin.get(f"/v1/jobs/{job['id']}").json() | {"queue": None} == job
    assert admin.get(f"/v1/jobs/{source}").json()["kind"] == "training"
    assert admin.get(f"/v1/jobs/{job['id']}/script").status_code == 409
    assert admin.delete(f"/v1/models/{source}").status_code == 409
    assert admin.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert admin.delete(f"/v1/models/{source}").status_code == 200


def test_the_same_idempotency_key_makes_one_export(admin, services, tmp_path):
    add_model(services)
    source = finished_job(services, adapter(tmp_path))
    url, key = f"/v1/jobs/{source}/exports", {"Idempotency-Key": "once"}
    first = admin.post(url, json={"format": "gguf"}, headers=key)
    again = admin.post(url, json={"format": "gguf"}, headers=key)
    assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (first.json()["id"], "true")
    assert admin.post(url, json={"format": "adapter"}, headers=key).status_code == 422
    assert len(admin.get(url).json()["data"]) == 1


def test_an_export_of_a_job_that_runs_waits_for_it_and_falls_with_it(admin, services):
    source = submit(services)
    waiting = admin.post(f"/v1/jobs/{source}/exports", json={"format": "merged_16bit"}).json()
    assert (waiting["state"], waiting["depends_on"]) == ("waiting", [source])
    admin.post(f"/v1/jobs/{source}/cancel")
    assert admin.get(f"/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"
    assert admin.post(f"/v1/jobs/{source}/exports", json={"format": "gguf"}).json()["code"] == "no_result"


def test_what_cannot_be_exported_is_refused_at_once(admin, services, tmp_path):
    add_model(services)
    full = tmp_path / "full"
    full.mkdir()
    (full / "config.json").write_text("{}")
    source = finished_job(services, full)
    url = f"/v1/jobs/{source}/exports"
    gguf = admin.post(url, json={"format": "gguf"}).json()["id"]
    of_gguf = admin.post(f"/v1/jobs/{gguf}/exports", json={"format": "merged_16bit"}).json()
    assert of_gguf["code"] == "no_result", "it would wait for a model that never comes"
    assert admin.post("/v1/jobs/ftjob-none/exports", json={"format": "gguf"}).status_code == 404
    assert admin.get("/v1/jobs/ftjob-none/exports").status_code == 404
    assert admin.post(url, json={"format": "adapter"}).json()["errors"][0]["path"] == "format"
    assert admin.post(url, json={"format": "gguf", "quantization": "q4_k_m"}).status_code == 422
    push = {"repo": "team/tone", "secret": "hf"}
    refused = admin.post(url, json={"format": "gguf", "push_to_hub": push}).json()
    assert (refused["code"], refused["errors"][0]["path"]) == ("secret_not_found", "push_to_hub.secret")
    admin.post("/v1/secrets", json={"name": "hf", "value": "hf_token"})
    assert admin.post(url, json={"format": "gguf", "push_to_hub": push}).status_code == 201


def test_a_member_may_not_push_with_the_secret_of_another(admin, member, services, tmp_path):
    add_model(services)
    source = finished_job(services, adapter(tmp_path))
    admin.post("/v1/secrets", json={"name": "hf", "value": "hf_token"})
    body = {"format": "adapter", "push_to_hub": {"repo": "team/tone", "secret": "hf"}}
    assert member.post(f"/v1/jobs/{source}/exports", json=body).json()["code"] == "secret_not_found"


def test_a_secret_is_written_listed_by_name_and_deleted_and_never_shown(admin, member, anyone):
    value = "hf_verysecret"
    made = admin.post("/v1/secrets", json={"name": "hf", "value": value})
    again = admin.post("/v1/secrets", json={"name": "hf", "value": value + "2"})
    listed = admin.get("/v1/secrets")
    assert (made.status_code, again.status_code, anyone.get("/v1/secrets").status_code) == (201, 200, 401)
    assert [entry["name"] for entry in listed.json()["data"]] == ["hf"]
    assert member.get("/v1/secrets").json()["data"] == []
    assert member.delete("/v1/secrets/hf").status_code == 404
    wrong = admin.post("/v1/secrets", json={"name": "a b", "value": value, "x": value})
    assert wrong.status_code == 422
    answers = [made.text, again.text, listed.text, wrong.text, admin.get("/v1/secrets/hf").text]
    assert not any(value in text for text in answers)
    assert admin.delete("/v1/secrets/hf").json() == {"name": "hf", "object": "secret", "deleted": True}
    assert admin.delete("/v1/secrets/hf").status_code == 404
