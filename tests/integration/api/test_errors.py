import json
import re

import httpx

from api.document import Problem
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve
from tests.support.jobs import submit

JSON = {"Content-Type": "application/json"}
PROBLEM = {"type", "title", "status", "detail", "code", "errors", "hint", "error"}


def problem_of(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body.keys() == PROBLEM
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["status"] == status
    assert body["error"]["code"] == body["code"]
    assert answer.headers["x-request-id"]
    return body


def test_a_request_without_a_good_key_is_told_how_to_send_one(anyone):
    for headers in ({}, {"Authorization": "Bearer sk-none"}, {"Authorization": "Basic eA=="}, {"Authorization": "x"}):
        for path in ("/v1/jobs", "/v1/files", "/v1/models", "/v1/keys", "/v1/jobs/ftjob-x/events"):
            answer = anyone.get(path, headers=headers)
            assert problem_of(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"].startswith("Bearer")
    problem_of(anyone.post("/v1/files", content=b"x" * 1000), 401)


def test_a_revoked_and_an_expired_key_are_refused(anyone, services):
    row, key = services.keys.create("bob")
    bearer = {"Authorization": f"Bearer {key}"}
    assert anyone.get("/v1/jobs", headers=bearer).status_code == 200
    services.keys.revoke(row.id)
    problem_of(anyone.get("/v1/jobs", headers=bearer), 401)
    _, short = services.keys.create("bob", expires_in_s=-1)
    problem_of(anyone.get("/v1/jobs", headers={"Authorization": f"Bearer {short}"}), 401)


def test_unknown_routes_and_methods_are_problems_too(admin):
    assert problem_of(admin.get("/v2/jobs"), 404)["code"] == "not_found"
    answer = admin.put("/v1/jobs", json={})
    assert problem_of(answer, 405)["code"] == "method_not_allowed"
    assert "GET" in answer.headers["allow"]


BODIES = [
    (b"", 400),
    (b"{", 400),
    (b'{"a": }', 400),
    (b"\xff\xfe", 400),
    (b'"' + b"\xff" + b'"', 400),
    (b"[" * 100_000, 400),
    (b"[" * 40 + b"]" * 40, 400),
    (b'{"a": ' + b"9" * 5000 + b"}", 400),
    (b'{"name": "a\\u0000b"}', 400),
    (b'{"name": "\\ud800"}', 400),
    (b'{"\\ud800": 1}', 400),
    (b"[]", 422),
    (b"null", 422),
    (b'"x"', 422),
    (b"1e999", 422),
    (b"{}", 422),
    (b'{"dataset": {"$gt": ""}}', 422),
    (b'{"opensloth_config": []}', 422),
    (b'{"metadata": {"a": {"b": 1}}}', 422),
    (b'{"name": "' + b"x" * (1 << 20) + b'"}', 413),
]


def test_a_body_that_cannot_be_used_is_a_clear_refusal(admin):
    for body, status in BODIES:
        for path in ("/v1/jobs", "/v1/models", "/v1/keys"):
            problem_of(admin.post(path, content=body, headers=JSON), status)


def test_a_body_of_another_type_is_refused(admin):
    for content_type in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = admin.post("/v1/jobs", content=b"{}", headers={"Content-Type": content_type})
        assert problem_of(answer, 415)["code"] == "unsupported_media_type"


def test_a_nul_in_the_address_is_refused_and_never_reaches_the_database(admin):
    problem_of(admin.get("/v1/jobs/a%00b"), 400)
    problem_of(admin.get("/v1/jobs?owner=a%00b"), 400)
    problem_of(admin.get("/v1/jobs?metadata[a%00]=b"), 400)


def test_a_member_may_not_do_what_is_for_admins(member):
    for method, path, body in [
        ("POST", "/v1/keys", {"owner": "x"}),
        ("POST", "/v1/models", {"id": "smollm2-135m"}),
    ]:
        answer = member.request(method, path, json=body)
        assert problem_of(answer, 403)["error"]["type"] == "permission_error"


def test_a_failure_of_our_own_is_logged_and_tells_nothing(admin, services, monkeypatch, caplog):
    from opensloth.jobs.service import JobService

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr(JobService, "get", fail)
    answer = admin.get("/v1/jobs/ftjob-1", headers={"X-Request-Id": "trace-7"})
    body = problem_of(answer, 500)
    assert "secret" not in answer.text
    assert "trace-7" in body["detail"]
    assert answer.headers["x-request-id"] == "trace-7"
    assert "trace-7" in caplog.text
    assert "the secret cause" in caplog.text


def test_a_database_that_is_away_is_a_503_that_asks_to_come_back(tmp_path, valkey_url):
    lone = Settings(
        home=tmp_path / "lone",
        database_url="postgresql://nobody@127.0.0.1:1/none",
        redis_url=valkey_url,
        storage_url=str(tmp_path / "storage"),
    )
    with serve(lone) as url:
        answer = httpx.get(f"{url}/v1/jobs", headers={"Authorization": "Bearer sk-x"}, timeout=30)
        assert problem_of(answer, 503)["code"] == "database_unavailable"
        assert int(answer.headers["retry-after"]) > 0
        ready = httpx.get(f"{url}/readyz", timeout=30)
        assert ready.status_code == 503
        assert ready.json()["parts"] == {"database": "away", "storage": "ok", "redis": "ok", "disk": "ok"}
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_the_document_of_the_interface_has_examples_that_are_accepted_as_bodies(anyone, admin, services: Services):
    from opensloth.jobs.spec import parse_job_spec

    document = anyone.get("/openapi.json").json()
    examples = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert {"sft", "dpo"} <= examples.keys()
    for example in examples.values():
        parse_job_spec(example["value"])
    assert anyone.get("/docs").status_code == 200
    assert json.dumps(document).count('"$ref"') > 10


def test_the_document_names_no_schema_that_it_does_not_have(anyone):
    document = anyone.get("/openapi.json").json()
    for name in set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))):
        found = document
        for part in name.removeprefix("#/").split("/"):
            assert part in found, name
            found = found[part]


def test_the_document_says_how_errors_look(anyone, admin):
    document = anyone.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    refused = document["paths"]["/v1/jobs"]["post"]["responses"]["4XX"]["content"]
    assert refused == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    Problem.model_validate(document["components"]["schemas"]["Problem"]["example"])
    Problem.model_validate(admin.post("/v1/jobs", json={}).json())


def test_the_message_for_clients_of_openai_names_each_field_once(admin):
    message = admin.post("/v1/jobs", json={"name": 1}).json()["error"]["message"]
    assert message == "name: should be a valid string, not 1; dataset: required; opensloth_config: required"
    assert admin.post("/v1/jobs", json=[]).json()["error"]["message"] == "a job is a JSON object, not a list"


def test_health_answers_without_a_key(anyone, services):
    assert anyone.get("/healthz").json() == {"status": "ok"}
    assert anyone.head("/healthz").status_code == 200
    assert anyone.get("/readyz").json()["parts"] == {"database": "ok", "storage": "ok", "redis": "ok", "disk": "ok"}


def test_a_job_of_another_may_be_read(member, services):
    assert member.get(f"/v1/jobs/{submit(services)}").status_code == 200
