"""A job on two GPUs: a rank that dies takes the job down, and the next attempt goes on from the checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from opensloth.client import Client
from opensloth.devices.nvml import Nvml
from tests.support.up_process import ROOT, Up, free_port, wait_until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]


def gpus() -> list[str]:
    try:
        nvml = Nvml()
    except ImportError:
        return []
    return [gpu.uuid for gpu in nvml.gpus()]


@pytest.mark.skipif(len(gpus()) < 2, reason="needs two GPUs")
@pytest.mark.parametrize("shards", [False, True], ids=["an adapter", "all weights in shards"])
def test_a_killed_rank_ends_the_job_which_then_goes_on_from_its_checkpoint(shards: bool, tmp_path: Path) -> None:
    folder = Path("/tmp/opensloth-shapes/qwen3-0.6b")
    model = {"load_in_4bit": False, "full_finetuning": shards}
    making = "from pathlib import Path; from tests.support.real_shapes import make_model; "
    # In a process of its own: a CUDA context of this one would be a foreign process on the GPU.
    subprocess.run([sys.executable, "-c", f"{making}make_model('qwen3-0.6b', Path('{folder}'))"], cwd=ROOT, check=True)
    up = Up(tmp_path / "home", free_port(), env={"OPENSLOTH_DEVICES": "auto", "OPENSLOTH_HEARTBEAT_S": "1"})
    try:
        up.wait_for("Ready at", 120)
        found = json.loads((tmp_path / "home" / "credentials.json").read_text())
        with Client(found["base_url"], found["api_key"]) as client:
            client.models.add("qwen", str(folder))
            client.models.wait_ready("qwen")
            job = client.jobs.submit(
                {
                    "name": "two ranks",
                    "dataset": client.files.upload(ROOT / "examples/datasets/support_sft.jsonl").id,
                    "opensloth_config": {
                        "training_type": "sft",
                        "engine": "transformers",
                        "fast_model_args": {"model_name": "qwen", "max_seq_length": 512, **model},
                        **({"shard_weights": True} if shards else {}),
                    },
                    "training_args": {
                        "max_steps": 60,
                        "gradient_accumulation_steps": 1,
                        "save_steps": 10,
                        "logging_steps": 1,
                    },
                    "resources": {"gpus": 2},
                }
            )

            wait_until(lambda: bool(client.jobs.checkpoints(job.id)), 150, lambda: client.jobs.log(job.id)[-3000:])
            victim = last_rank(up)
            killed_at = time.monotonic()
            victim.kill()
            wait_until(lambda: client.jobs.get(job.id).as_json()["attempt"] == 2, 60)
            print(json.dumps({"next_attempt_after_s": round(time.monotonic() - killed_at, 1)}), flush=True)
            for _ in client.jobs.follow(job.id):
                pass
            ended = client.jobs.get(job.id).as_json()
            print(json.dumps({"state": ended["state"], "error": ended.get("error")}), flush=True)
            assert ended["state"] == "succeeded", client.jobs.log(job.id)[-4000:]
        up.interrupt()
        up.wait_ended(90)
    finally:
        up.kill_all()


def last_rank(up: Up) -> psutil.Process:
    """The newest process of `up` that uses CUDA."""
    processes = [child for part in up.parts().values() for child in part.children(recursive=True)]
    users = [process for process in processes if uses_cuda(process.pid)]
    assert len(users) >= 2, [process.cmdline() for process in processes]
    return max(users, key=lambda process: process.create_time())


def uses_cuda(pid: int) -> bool:
    try:
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return "/dev/nvidia-uvm" in links
