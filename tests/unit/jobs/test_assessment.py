"""A submission is given the share that it needs, or is refused with the numbers where nothing can hold it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from opensloth.devices.rows import DeviceRow, HostRow
from opensloth.devices.shapes import learn
from opensloth.errors import InvalidInput
from opensloth.jobs.estimates import EstimateView
from opensloth.jobs.exports import ExportService
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import State
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from tests.support.jobs import ADMIN, add_file, add_model, body
from tests.support.real_shapes import SHAPES

GIB = 2**30


def add_host(services: Services, *sizes: float, kind: str = "cuda", host: str = "box") -> None:
    """A host with devices of so many GiB that has just been heard from."""
    facts = {"kind": kind, "bf16": True, "has_unsloth": False, "has_bitsandbytes": kind == "cuda", "count": len(sizes)}
    with services.database.write() as session:
        session.add(HostRow(id=host, seen_at=time.time() + 3600, facts=facts))
        session.flush()
        for index, size in enumerate(sizes):
            values = {"kind": kind, "index": index, "name": "a device", "memory_bytes": int(size * GIB)}
            session.add(DeviceRow(id=f"{host}:{index}", host_id=host, **values))


def add_shape(services: Services, name: str = "llama-1b") -> str:
    """A base model of a real shape without its weights."""
    add_model(services, name)
    folder = services.settings.home / f"config-{name}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SHAPES[name], "model_type": SHAPES[name]["kind"]}))
    services.storage.put_tree(folder, f"models/{name}", move=True)
    return name


def spec_of(services: Services, model: str = "llama-1b", **more: Any) -> dict[str, Any]:
    """A LoRA SFT job on rows of some 16,000 bytes."""
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes " * 4000}]
    spec = body(services, add_file(services, [{"messages": chat}] * 8), **more)
    spec["opensloth_config"] |= {
        "fast_model_args": {"model_name": model, "max_seq_length": 2048, "load_in_4bit": False},
        "sequence_packing": False,
    }
    spec["training_args"] = {"per_device_train_batch_size": 8, **spec.get("training_args", {})}
    return spec


def submitted(services: Services, spec: dict[str, Any]) -> JobRow:
    job = services.jobs.submit(spec, ADMIN)[0]
    with services.database.read() as session:
        return session.get_one(JobRow, job.id)


def estimated(services: Services, spec: dict[str, Any]) -> EstimateView:
    return services.estimates.estimate(spec, ADMIN)


@pytest.mark.parametrize(("room", "asked", "kept"), [(80, None, True), (16, None, False), (80, "8GiB", False)])
def test_activations_are_kept_where_there_is_clearly_room_for_them(
    room: int, asked: str | None, kept: bool, services: Services
) -> None:
    add_host(services, room)
    add_shape(services)
    spec = spec_of(services, **({"resources": {"memory": asked}} if asked else {}))
    row, view = submitted(services, spec), estimated(services, spec)
    assert row.resolved is not None
    assert row.resolved["training_args"]["gradient_checkpointing"] is not kept
    assert view.assumed is not None
    assert view.assumed.checkpointing == ("none" if kept else "layers")
    assert row.memory_bytes == view.memory_bytes


def test_a_job_on_a_gpu_is_given_its_estimate_with_a_margin(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    spec = spec_of(services)
    row, view = submitted(services, spec), estimated(services, spec)
    assert view.parts is not None
    assert row.memory_bytes is not None
    assert view.parts.total < row.memory_bytes == view.memory_bytes < 1.3 * view.parts.total
    assert (row.exclusive, view.basis, view.placeable) == (False, "estimated", True)
    assert [(fit.alone, fit.shared, fit.now) for fit in view.fits] == [(True, True, True)]
    assert row.shape is not None
    assert row.expected_s is None


def test_a_measured_peak_takes_the_place_of_the_estimate_and_tells_the_time(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    spec = spec_of(services, training_args={"max_steps": 50, "per_device_train_batch_size": 2})
    first = submitted(services, spec)
    assert first.shape is not None
    with services.database.write() as session:
        learn(session, first.shape, peak_bytes=3 * GIB, start_s=30.0, step_s=2.0)
    again = submitted(services, spec)
    assert again.memory_bytes is not None
    assert 3 * GIB < again.memory_bytes < 4 * GIB
    assert again.expected_s == 130.0
    limited = submitted(services, {**spec, "time_limit": 60})
    assert limited.expected_s == 60.0
    longer = {**spec, "training_args": {"max_steps": 50, "per_device_train_batch_size": 4}}
    assert submitted(services, longer).expected_s == 230.0
    view = estimated(services, spec)
    assert (view.basis, view.peak_bytes, view.duration.steps) == ("measured", 3 * GIB, 50)


def test_another_dataset_is_another_shape_where_the_rows_decide(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    one, other = spec_of(services), spec_of(services)
    chats = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "no " * 4000}]]
    other["dataset"] = add_file(services, [{"messages": chat} for chat in chats])
    assert submitted(services, one).shape != submitted(services, other).shape


def test_what_the_user_says_is_given(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    row = submitted(services, spec_of(services, resources={"memory": "3GiB", "exclusive": True}))
    assert (row.memory_bytes, row.exclusive) == (3 * GIB, True)
    view = estimated(services, spec_of(services, resources={"memory": "3GiB"}))
    assert (view.basis, view.memory_bytes) == ("asked", 3 * GIB)


def full(services: Services, gpus: int, **config: Any) -> dict[str, Any]:
    spec = spec_of(services, "llama-8b", resources={"gpus": gpus}, training_args={"per_device_train_batch_size": 1})
    spec["opensloth_config"]["fast_model_args"] |= {"full_finetuning": True}
    spec["opensloth_config"] |= config
    return spec


def test_all_weights_of_what_does_not_fit_one_device_are_spread_over_those_it_asks_for(services: Services) -> None:
    add_host(services, 80, 80, 80, 80)
    add_shape(services, "llama-8b")
    row, view = submitted(services, full(services, 4)), estimated(services, full(services, 4))
    assert row.resolved is not None
    assert row.resolved["opensloth_config"]["shard_weights"] is True
    assert row.resolved["training_args"]["optim"] == "adamw_torch_fused"
    assert "does not fit one device" in row.resolved["why"]["opensloth_config.shard_weights"]
    assert view.placeable
    assert view.parts is not None
    assert view.parts.total < 60 * GIB
    assert view.disk is not None
    assert view.disk.checkpoint is not None
    assert view.disk.checkpoint > 12 * 8e9

    for refused in (full(services, 4, shard_weights=False), full(services, 1)):
        with pytest.raises(InvalidInput) as told:
            services.jobs.submit(refused, ADMIN)
        assert told.value.error_code == "unplaceable"
    assert "resources.gpus: 2" in (told.value.hint or "")


def test_what_fits_one_device_is_held_whole_by_each(services: Services) -> None:
    add_host(services, 80, 80)
    add_shape(services, "llama-8b")
    add_shape(services)
    spec = full(services, 2)
    spec["opensloth_config"]["fast_model_args"]["model_name"] = "llama-1b"
    row = submitted(services, spec)
    assert row.resolved is not None
    assert row.resolved["opensloth_config"]["shard_weights"] is False
    spec["opensloth_config"]["shard_weights"] = True
    asked = submitted(services, spec)
    assert asked.resolved is not None
    assert asked.resolved["opensloth_config"]["shard_weights"] is True
    assert asked.shape != row.shape
    assert (asked.memory_bytes or 0) < (row.memory_bytes or 0)


def test_a_job_that_no_device_can_hold_is_refused_with_numbers_and_a_cure(services: Services) -> None:
    add_host(services, 14, 14)
    add_shape(services, "llama-8b")
    spec = spec_of(services, "llama-8b")
    with pytest.raises(InvalidInput) as refused:
        services.jobs.submit(spec, ADMIN)
    assert refused.value.error_code == "unplaceable"
    assert "weights 15.0 GiB" in refused.value.fields[0].message
    assert "the largest has 14.0 GiB" in refused.value.fields[0].message
    assert "load_in_4bit: true" in (refused.value.hint or "")
    view = estimated(services, spec)
    assert not view.placeable
    assert any("load_in_4bit" in note for note in view.notes)
    assert [fit.alone for fit in view.fits] == [False, False]
    trusted = {**spec, "resources": {"memory": "13GiB"}}
    assert submitted(services, trusted).memory_bytes == 13 * GIB


def test_asking_for_more_than_any_device_gives_is_refused(services: Services) -> None:
    add_host(services, 16, 24)
    add_shape(services)
    for resources in ({"memory": "24GiB"}, {"memory": "20GiB", "gpus": 2}):
        with pytest.raises(InvalidInput) as refused:
            services.jobs.submit(spec_of(services, resources=resources), ADMIN)
        assert [field.path for field in refused.value.fields] == ["resources.memory"]
        assert not estimated(services, spec_of(services, resources=resources)).placeable
    assert submitted(services, spec_of(services, resources={"memory": "15GiB", "gpus": 2})).memory_bytes == 15 * GIB


def test_a_job_that_may_need_a_whole_device_takes_it_whole(services: Services) -> None:
    add_host(services, 9)
    add_shape(services)
    row = submitted(services, spec_of(services))
    assert row.memory_bytes is None
    assert estimated(services, spec_of(services)).placeable


def test_a_job_whose_memory_nobody_knows_takes_whole_devices(services: Services) -> None:
    add_host(services, 80)
    add_model(services)
    view = estimated(services, spec_of(services, "tiny"))
    assert (view.basis, view.memory_bytes, view.parts) == ("unknown", None, None)
    assert "config.json" in view.notes[0]
    hub = estimated(services, spec_of(services, "org/some-model"))
    assert hub.memory_bytes is None
    assert "fetched from the hub" in hub.notes[0]
    assert submitted(services, spec_of(services, "org/some-model")).memory_bytes is None


def test_a_slot_of_cpus_is_not_shared_unless_the_job_says_so(services: Services) -> None:
    add_host(services, 64, kind="cpu")
    add_shape(services)
    small = {"per_device_train_batch_size": 1}
    assert submitted(services, spec_of(services, training_args=small)).memory_bytes is None
    view = estimated(services, spec_of(services, training_args=small))
    assert view.parts is not None
    assert view.parts.weights > 4 * 10**9
    assert submitted(services, spec_of(services, resources={"memory": "9GiB"})).memory_bytes == 9 * GIB


def test_without_any_worker_nothing_is_known_and_nothing_is_refused(services: Services) -> None:
    add_shape(services)
    row = submitted(services, spec_of(services))
    assert (row.memory_bytes, row.shape) == (None, None)
    assert "no worker" in estimated(services, spec_of(services)).notes[0]


def test_a_job_that_waits_for_its_parent_is_assessed_by_the_base_of_the_line(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    parent = services.jobs.submit(spec_of(services), ADMIN)[0].id
    rows = [{"prompt": "Hi", "chosen": "yes " * 900, "rejected": "no " * 900}] * 4
    child = body(services, add_file(services, rows))
    child["opensloth_config"] |= {
        "training_type": "dpo",
        "fast_model_args": {"model_name": parent, "max_seq_length": 512, "load_in_4bit": False},
    }
    row, view = submitted(services, child), estimated(services, child)
    assert (row.state, row.resolved) == (State.WAITING, None)
    assert row.memory_bytes is not None
    assert row.memory_bytes == view.memory_bytes
    assert view.parts is not None
    assert view.parts.reference == view.parts.adapter > 0
    assert any(parent in note for note in view.notes)
    grandchild = {**child, "opensloth_config": {**child["opensloth_config"]}}
    grandchild["opensloth_config"]["fast_model_args"] = {"model_name": row.id, "max_seq_length": 512}
    assert submitted(services, grandchild).shape is not None


def test_short_rows_need_less_than_long_ones(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    long, short = spec_of(services), spec_of(services)
    short["dataset"] = add_file(services)
    one, other = estimated(services, long), estimated(services, short)
    assert one.memory_bytes is not None
    assert other.memory_bytes is not None
    assert other.memory_bytes < one.memory_bytes
    assert one.assumed is not None
    assert other.assumed is not None
    assert one.assumed.tokens == 2048 > other.assumed.tokens


def test_packed_rows_of_enough_data_are_full_whatever_they_hold(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    spec = spec_of(services)
    spec["opensloth_config"] |= {"sequence_packing": True}
    spec["training_args"] = {"per_device_train_batch_size": 1}
    view, row = estimated(services, spec), submitted(services, spec)
    assert view.parts is not None
    assert view.assumed is not None
    assert view.assumed.tokens == 2048
    assert row.shape is not None
    assert row.shape.endswith("|full")


def test_an_export_of_a_result_is_given_what_its_model_takes(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    source = submitted(services, spec_of(services))
    with services.database.write() as session:
        result = {"kind": "result", "status": "ready", "owner": "admin", "source": source.id, "base_id": "llama-1b"}
        lora = {"r": 16, "lora_alpha": 16}
        session.add(ModelRow(id="ft:x", job_id=source.id, storage_key="x", lora=lora, created_at=1.0, **result))
        row = session.get_one(JobRow, source.id)
        row.state, row.result = State.SUCCEEDED.value, {"model": "ft:x", "artifacts": []}
    exports: ExportService = services.exports
    made = exports.submit(source.id, {"format": "gguf"}, ADMIN)[0]
    with services.database.read() as session:
        found = session.get_one(JobRow, made.id)
        assert found.memory_bytes is not None
        assert 5 * GIB < found.memory_bytes < 9 * GIB
        assert found.shape is not None
        assert found.shape.startswith("cuda/export/gguf/llama-1b@")
    with services.database.write() as session:
        learn(session, found.shape, peak_bytes=2 * GIB, start_s=20.0, step_s=0.5)
    again = exports.submit(source.id, {"format": "gguf"}, ADMIN)[0]
    with services.database.read() as session:
        row = session.get_one(JobRow, again.id)
        assert row.expected_s == 70.0
        assert row.memory_bytes is not None
        assert 2 * GIB < row.memory_bytes < 4 * GIB


def test_rows_of_the_evaluation_count_too(services: Services) -> None:
    add_host(services, 80)
    add_shape(services)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes " * 4000}]
    short = {**spec_of(services), "dataset": add_file(services)}
    alone = estimated(services, short)
    evaluated = estimated(services, {**short, "eval_dataset": add_file(services, [{"messages": chat}])})
    assert alone.assumed is not None
    assert evaluated.assumed is not None
    assert alone.assumed.tokens < evaluated.assumed.tokens == 2048
