"""What only a real driver can show: its inventory, memory by process, the cap, and jobs that share one GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensloth.client import Client, Device, Job
from opensloth.devices.inventory import FoundDevice, discover
from opensloth.devices.nvml import Nvml
from opensloth.devices.readings import Attribution, is_freed
from tests.support.up_process import ROOT, Up, free_port, wait_until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]

GIB = 1 << 30

HOLD = """
import sys, time, torch
kept = torch.empty(int(float(sys.argv[1]) * 2**30), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("held", flush=True)
time.sleep(600)
"""

TAKE = """
import json, os, sys, torch
from opensloth.devices.nvml import Nvml
from opensloth.training.failures import describe
from opensloth.training.memory import apply_cap, explained
share = int(float(sys.argv[1]) * 2**30)
allowed = apply_cap(share, "cuda")
most, kept, ended = 0, [], None
while ended is None:
    try:
        kept.append(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"))
        kept.append(torch.mm(torch.ones(64, 64, device="cuda"), torch.ones(64, 64, device="cuda")))
    except torch.OutOfMemoryError as error:
        ended = explained(describe(error, "training"), error)
uuid = os.environ["CUDA_VISIBLE_DEVICES"]
print(json.dumps({"allowed": allowed, "reserved": torch.cuda.memory_reserved(), "code": ended[0].code,
                  "capped": ended[1], "by_driver": Nvml().process_bytes(uuid, os.getpid())}), flush=True)
"""


@pytest.fixture(scope="module")
def nvml() -> Iterator[Nvml]:
    made = Nvml()
    yield made
    made.close()


@pytest.fixture(scope="module")
def gpu(nvml: Nvml) -> FoundDevice:
    return discover("auto", "box", nvml)[0]


def python(gpu: FoundDevice, source: str, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.id, "PYTHONPATH": path}
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def told(**values: object) -> None:
    print(json.dumps(values), flush=True)


def test_the_driver_names_the_gpus_that_torch_sees(nvml: Nvml, gpu: FoundDevice) -> None:
    import torch

    found = discover("auto", "box", nvml)
    sample = nvml.sample(gpu.id)
    properties = torch.cuda.get_device_properties(0)
    told(gpu=gpu.name, memory=gpu.memory_bytes, torch=properties.total_memory, sample=str(sample), xids=nvml.xids())
    assert len(found) == torch.cuda.device_count()
    assert gpu.id == f"GPU-{properties.uuid}"
    assert gpu.bf16
    assert abs(gpu.memory_bytes - properties.total_memory) < 0.02 * properties.total_memory
    assert 0 <= sample.used_bytes < gpu.memory_bytes
    assert sample.utilization is not None
    assert 10 < (sample.temperature or 0) < 110


def test_a_process_is_listed_with_its_memory_and_its_end_frees_it(nvml: Nvml, gpu: FoundDevice) -> None:
    attribution = Attribution()
    attribution.read(nvml.sample(gpu.id), {}, {os.getpid()}, time.monotonic())
    process = python(gpu, HOLD, 3)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        pids = {process.pid}
        reading = attribution.read(nvml.sample(gpu.id), {"ours": pids}, {os.getpid(), *pids}, time.monotonic())
        theirs = attribution.read(nvml.sample(gpu.id), {}, {os.getpid(), *pids}, time.monotonic())
        told(processes=str(reading.processes), foreign=reading.foreign_bytes, as_foreign=theirs.foreign_bytes)
    finally:
        process.kill()
        process.wait()
    assert 3 * GIB < (reading.bytes_of("ours") or 0) < 5 * GIB
    assert reading.foreign_bytes < 2 * GIB
    assert theirs.foreign_bytes > 3 * GIB
    began = time.monotonic()

    def freed() -> bool:
        now = Attribution().read(nvml.sample(gpu.id), {"ours": pids}, {os.getpid()}, time.monotonic())
        return is_freed(now, "ours", pids, alone=True)

    wait_until(freed, 20)
    told(freed_after_s=time.monotonic() - began)


def test_the_cap_keeps_a_process_within_its_share(gpu: FoundDevice) -> None:
    taken = json.loads(python(gpu, TAKE, 6).communicate(timeout=120)[0].splitlines()[-1])
    told(**taken, outside=(taken["by_driver"] or 0) - taken["reserved"])
    assert (taken["code"], taken["capped"]) == ("cuda_oom", True)
    assert 4.5 * GIB < taken["reserved"] <= taken["allowed"]
    assert taken["by_driver"] is None or taken["by_driver"] <= 6 * GIB + (256 << 20)


def test_a_lack_of_memory_that_neighbours_cause_is_told_apart(nvml: Nvml, gpu: FoundDevice) -> None:
    free = gpu.memory_bytes - nvml.sample(gpu.id).used_bytes
    neighbour = python(gpu, HOLD, free / GIB - 6)
    try:
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == "held\n"
        taken = json.loads(python(gpu, TAKE, 20).communicate(timeout=120)[0].splitlines()[-1])
    finally:
        neighbour.kill()
        neighbour.wait()
    told(**taken)
    assert (taken["code"], taken["capped"]) == ("crowded_out", False)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    model = Path("/tmp/opensloth-shapes/qwen3-0.6b")
    making = "from pathlib import Path; from tests.support.real_shapes import make_model; "
    making += f"make_model('qwen3-0.6b', Path('{model}'))"
    # In a process of its own: a CUDA context of this one would be a foreign process on the GPU.
    subprocess.run([sys.executable, "-c", making], cwd=ROOT, check=True)
    home = tmp_path_factory.mktemp("gpu") / "home"
    up = Up(home, free_port(), env={"OPENSLOTH_DEVICES": "0", "OPENSLOTH_HEARTBEAT_S": "1"})
    try:
        up.wait_for("Ready at", 120)
        found = json.loads((home / "credentials.json").read_text())
        with Client(found["base_url"], found["api_key"]) as made:
            made.models.add("qwen", str(model))
            made.models.wait_ready("qwen")
            yield made
        up.interrupt()
        up.wait_ended(90)
    finally:
        up.kill_all()


def submit(client: Client, name: str, memory: str, steps: int, **arguments: object) -> Job:
    return client.jobs.submit(
        {
            "name": name,
            "dataset": client.files.upload(ROOT / "examples/datasets/support_sft.jsonl").id,
            "opensloth_config": {
                "training_type": "sft",
                "engine": "transformers",
                "fast_model_args": {"model_name": "qwen", "max_seq_length": 512, "load_in_4bit": False},
                "sequence_packing": False,
            },
            "training_args": {"max_steps": steps, "gradient_accumulation_steps": 1, "logging_steps": 10, **arguments},
            "resources": {"memory": memory},
        }
    )


def test_jobs_share_one_gpu_and_one_that_needs_more_than_its_share_ends_alone(client: Client) -> None:
    sharers = [submit(client, f"sharer-{n}", "16GiB", 150, per_device_train_batch_size=2) for n in range(2)]
    greedy = submit(client, "greedy", "1536MiB", 150, per_device_train_batch_size=8)
    jobs = [*sharers, greedy]
    shown: list[Device] = []
    done = ("succeeded", "failed", "cancelled")
    deadline = time.monotonic() + 150
    while any(client.jobs.get(job.id).state not in done for job in jobs) and time.monotonic() < deadline:
        shown += client.devices.list()
        time.sleep(0.5)
    ended = [client.jobs.get(job.id) for job in jobs]
    for job in ended:
        told(job=job.name, state=job.state, error=job.as_json().get("error"), metrics=job.as_json().get("metrics"))
    most = max(shown, key=lambda device: (len(device.holders), device.used_bytes or 0))
    told(device=most.as_json())
    held = [holder.used_bytes for device in shown for holder in device.holders if (holder.name or "").startswith("sh")]
    told(most_held_by_a_sharer=max(filter(None, held), default=None))
    assert [job.state for job in ended] == ["succeeded", "succeeded", "failed"], client.jobs.log(jobs[0].id)[-4000:]
    assert ended[2].as_json()["error"]["code"] == "cuda_oom"
    assert len(most.holders) == 3
    assert max(filter(None, held)) <= 16 * GIB
    wait_until(lambda: (client.devices.list()[0].used_bytes or 0) < 2 * GIB, 30)
    (last,) = client.devices.list()
    assert (last.health, last.jobs) == ("ok", [])
