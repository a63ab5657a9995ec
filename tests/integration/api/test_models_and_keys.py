from tests.support.jobs import add_model, submit


def test_models_are_a_superset_of_the_shape_of_openai(admin, services):
    add_model(services)
    model = admin.get("/v1/models/tiny").json()
    assert {"id", "object", "created", "owned_by"} <= model.keys()
    assert (model["object"], model["status"], model["kind"]) == ("model", "ready", "base")
    assert isinstance(model["created"], int)
    assert admin.get("/v1/models").json()["data"] == [model]
    assert admin.get("/v1/models/none").status_code == 404


def test_a_model_is_registered_once_and_found_under_an_id_with_a_slash(admin):
    first = admin.post("/v1/models", json={"id": "qwen", "source": "Qwen/Qwen3-0.6B"})
    assert (first.status_code, first.json()["status"]) == (201, "importing")
    assert admin.post("/v1/models", json={"id": "qwen", "source": "Qwen/Qwen3-0.6B"}).status_code == 201
    assert admin.post("/v1/models", json={"id": "qwen", "source": "Qwen/Other"}).status_code == 409
    assert admin.get("/v1/models/Qwen/Qwen3-0.6B").status_code == 404
    for wrong in (
        {"id": "../x"},
        {"id": "x", "source": "../y"},
        {"id": "x", "source": "a/b", "secret": "none"},
        {"id": 1},
        {"id": "x", "path": "/x"},
        {},
    ):
        answer = admin.post("/v1/models", json=wrong)
        assert (answer.status_code, bool(answer.json()["errors"])) == (422, True)


def test_a_model_in_use_is_not_deleted(admin, services):
    job_id = submit(services)
    assert admin.delete("/v1/models/tiny").status_code == 409
    admin.post(f"/v1/jobs/{job_id}/cancel")
    assert admin.delete("/v1/models/tiny").json() == {"id": "tiny", "object": "model", "deleted": True}
    assert admin.delete("/v1/models/tiny").status_code == 404


def test_a_key_is_shown_once_works_and_is_revoked(admin, member, anyone):
    made = admin.post("/v1/keys", json={"owner": "carol", "expires_in_s": 3600}).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert anyone.get("/v1/jobs", headers=bearer).status_code == 200
    listed = admin.get("/v1/keys").json()["data"]
    assert {entry["owner"] for entry in listed} == {"admin", "bob", "carol"}
    assert all(entry["key"] is None for entry in listed)
    assert {entry["owner"] for entry in member.get("/v1/keys").json()["data"]} == {"bob"}
    assert admin.delete(f"/v1/keys/{made['id']}").json()["revoked_at"]
    assert anyone.get("/v1/jobs", headers=bearer).status_code == 401
    assert admin.delete("/v1/keys/key-none").status_code == 404


def test_a_key_with_an_impossible_wish_is_refused(admin):
    for wrong in (
        {},
        {"owner": ""},
        {"owner": "a b"},
        {"owner": "x", "role": "king"},
        {"owner": "x", "expires_in_s": -1},
    ):
        assert admin.post("/v1/keys", json=wrong).status_code == 422
