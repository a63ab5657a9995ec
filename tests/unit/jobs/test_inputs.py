"""What a submission refers to is checked at once, also where it is still to come."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from opensloth.errors import Conflict, InvalidInput
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from tests.support.jobs import ADMIN, add_file, add_model, body, submit
from worker.host import Host


def after(services: Services, parent: str, **more: Any) -> dict[str, Any]:
    """The body of a job that starts from the result of `parent`."""
    spec = body(services, add_file(services))
    spec["opensloth_config"] |= {"fast_model_args": {"model_name": parent}, **more}
    return spec


def paths(services: Services, spec: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        services.jobs.submit(spec, ADMIN)
    return [field.path for field in refused.value.fields]


def add_adapter(services: Services, model_id: str) -> None:
    with services.database.write() as session:
        row = {"kind": "result", "status": "ready", "owner": "admin", "source": "made", "base_id": "tiny"}
        session.add(ModelRow(id=model_id, lora={"r": 16, "lora_alpha": 16}, storage_key="x", created_at=1.0, **row))


def test_the_shape_of_an_adapter_that_is_still_to_come_holds(services: Services) -> None:
    Host(services)._register()
    parent = submit(services)
    assert paths(services, after(services, parent, lora_args={"r": 3})) == ["opensloth_config.lora_args.r"]
    child = services.jobs.submit(after(services, parent), ADMIN)[0]
    assert (child.state, child.depends_on) == ("waiting", [parent])
    assert paths(services, after(services, child.id, lora_args={"r": 3})) == ["opensloth_config.lora_args.r"]
    assert services.jobs.submit(after(services, child.id, lora_args={"r": 16}), ADMIN)[0].state == "waiting"


def test_a_waiting_job_must_fit_a_host_too(services: Services) -> None:
    Host(services)._register()
    spec = {**after(services, submit(services)), "resources": {"gpus": 64}}
    assert paths(services, spec) == ["resources.gpus"]


def test_a_job_waits_for_the_adapter_that_pretrained_lora_names(services: Services) -> None:
    parent = submit(services)
    spec = after(services, "tiny", pretrained_lora=parent)
    assert services.jobs.submit(spec, ADMIN)[0].depends_on == [parent]
    services.control.cancel(parent, ADMIN)
    assert paths(services, spec) == ["opensloth_config.pretrained_lora"]


def test_an_adapter_that_a_job_starts_from_is_not_deleted(services: Services) -> None:
    add_model(services)
    add_adapter(services, "ours")
    job = services.jobs.submit(after(services, "tiny", pretrained_lora="ours"), ADMIN)[0]
    with pytest.raises(Conflict, match=job.id):
        services.models.delete("ours", ADMIN)
    services.control.cancel(job.id, ADMIN)
    services.models.delete("ours", ADMIN)


def test_a_job_whose_parent_ends_while_it_is_submitted_does_not_wait_for_ever(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = submit(services)
    services.control.pause(parent, ADMIN)
    spec = body(services, add_file(services), depends_on=[parent])
    checked, ends = threading.Event(), []

    def insert_slowly(*args: Any) -> None:
        checked.set()
        ender.join(1.0)  # the end of the parent may come now, or has to wait for this submission
        fill(*args)

    def end() -> None:
        checked.wait(30)
        ends.append(services.control.cancel(parent, ADMIN).state)

    fill = services.jobs.assessor.fill
    monkeypatch.setattr(services.jobs.assessor, "fill", insert_slowly)
    ender = threading.Thread(target=end)
    ender.start()
    child = services.jobs.submit(spec, ADMIN)[0]
    ender.join()
    assert ends == ["cancelled"]
    assert services.jobs.get(child.id, ADMIN).state == "cancelled"
