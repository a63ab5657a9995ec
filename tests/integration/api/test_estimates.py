"""`POST /v1/jobs/estimate` over HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from api.examples import ESTIMATE_EXAMPLE
from opensloth.jobs.estimates import EstimateView
from opensloth.services import Services
from tests.support.jobs import add_file, add_model, body, submit
from tests.support.real_shapes import SHAPES
from worker.host import Host


def with_shape(services: Services) -> None:
    """The model `tiny` with a config that says how large it is, and a worker that has reported."""
    add_model(services)
    folder = services.settings.home / "shape"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SHAPES["qwen3-0.6b"], "model_type": "qwen3"}))
    services.storage.put_tree(folder, "models/tiny", move=True)
    Host(services)._register()


def test_an_estimate_says_what_a_job_needs_and_makes_none(admin: httpx.Client, services: Services) -> None:
    with_shape(services)
    spec = body(services, add_file(services), training_args={"per_device_train_batch_size": 1})
    answer = admin.post("/v1/jobs/estimate", json=spec)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["parts"]["weights"] == pytest.approx(4 * 596e6, rel=0.01)
    assert found["assumed"]["device"] == "cpu"
    assert found["disk"]["result"] < found["disk"]["exports"]["q8_0"]
    assert found["queue"]["position"] == 1
    assert len(found["fits"]) == 2
    assert found["duration"]["steps"] > 0
    assert admin.get("/v1/jobs").json()["data"] == []


def test_an_estimate_waits_for_what_the_job_would_wait_for(admin: httpx.Client, services: Services) -> None:
    with_shape(services)
    parent = submit(services)
    spec = body(services, add_file(services), depends_on=parent)
    found = admin.post("/v1/jobs/estimate", json=spec).json()
    assert found["queue"] is None
    assert any(parent in note for note in found["notes"])


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"dataset": "file-nothing"}, "dataset"),
        ({"training_args": {"learning_rat": 1}}, "training_args.learning_rat"),
        ({"resources": {"gpus": 99}}, "resources.gpus"),
    ],
)
def test_what_a_submission_refuses_an_estimate_refuses(
    admin: httpx.Client, services: Services, changed: dict[str, Any], path: str
) -> None:
    with_shape(services)
    answer = admin.post("/v1/jobs/estimate", json={**body(services, add_file(services)), **changed})
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [path]


def test_the_documented_answer_is_one() -> None:
    assert EstimateView.model_validate(ESTIMATE_EXAMPLE).model_dump(mode="json") == ESTIMATE_EXAMPLE
