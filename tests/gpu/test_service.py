"""The whole service on a GPU: both engines, jobs through HTTP, results that plain PEFT loads."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from opensloth.client import Client
from tests.support.real_shapes import make_model
from tests.support.up_process import ROOT, Up, free_port

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

ENGINES = ["transformers", pytest.param("unsloth", marks=pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None, reason="Unsloth is not installed"
))]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("gpu") / "home"
    up = Up(home, free_port(), env={"OPENSLOTH_DEVICES": "auto"})
    try:
        up.wait_for("Ready at", 120)
        found = json.loads((home / "credentials.json").read_text())
        with Client(found["base_url"], found["api_key"]) as made:
            for shape in ("llama-1b", "qwen3-0.6b"):
                made.models.add(shape, str(make_model(shape, Path("/tmp/opensloth-shapes") / shape)))
                made.models.wait_ready(shape)
            yield made
        up.interrupt()
        up.wait_ended(90)
    finally:
        up.kill_all()


DATA = {
    "sft": "support_sft",
    "dpo": "support_preferences",
    "kto": "support_feedback",
    "orpo": "support_preferences",
    "grpo": "till_sums",
}
BRIEF = {"name": "length", "params": {"unit": "words", "max": 8, "tolerance": 30}}
OWN = {"grpo": {"grpo_args": {"max_completion_length": 32, "beta": 0.04, "reward_functions": [BRIEF]}}}


def run(
    client: Client,
    method: str,
    engine: str,
    model: str = "llama-1b",
    fast: dict[str, object] | None = None,
    **arguments: object,
) -> dict[str, object]:
    dataset = ROOT / "examples/datasets" / f"{DATA[method]}.jsonl"
    job = client.jobs.submit(
        {
            "name": f"{method}-{engine}",
            "dataset": client.files.upload(dataset).id,
            "opensloth_config": {
                "training_type": method,
                "engine": engine,
                "fast_model_args": {"model_name": model, "max_seq_length": 512, **(fast or {})},
                **OWN.get(method, {}),
            },
            "training_args": {"max_steps": 6, "logging_steps": 1, **arguments},
        }
    )
    for _ in client.jobs.follow(job.id):
        pass
    ended = client.jobs.get(job.id)
    metrics = ended.as_json().get("metrics")
    print(json.dumps({"job": ended.name, "state": ended.state, "metrics": metrics}), flush=True)
    if ended.state != "succeeded":
        raise AssertionError(f"{ended.as_json()['error']}\n{client.jobs.log(job.id)[-6000:]}")
    assert isinstance(metrics, dict)
    assert metrics["tokens_per_second"] > 0
    assert metrics["memory_peak_bytes"] > 1 << 30
    return ended.as_json()


@pytest.mark.parametrize("engine", ENGINES)
def test_sft_and_then_dpo_from_its_adapter(client: Client, engine: str, tmp_path: Path) -> None:
    first = run(client, "sft", engine)
    second = run(client, "dpo", engine, model=str(first["id"]))
    for artifact in client.jobs.artifacts(str(second["id"])):
        client.jobs.download_artifact(str(second["id"]), artifact, tmp_path)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        "/tmp/opensloth-shapes/llama-1b", dtype=torch.bfloat16, device_map="cuda"
    )
    tuned = PeftModel.from_pretrained(base, tmp_path)
    moved = [name for name, value in tuned.named_parameters() if "lora_B" in name and value.abs().max() > 0]
    assert moved


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["kto", "orpo", "grpo"])
def test_the_other_methods_train_too(client: Client, method: str, engine: str) -> None:
    job = run(client, method, engine, gradient_accumulation_steps=1)
    metrics = job["metrics"]
    assert isinstance(metrics, dict)
    if method == "grpo":  # random weights answer in tokens without text: every reward is the same, no gradient
        assert metrics["rewards/length/mean"] == metrics["reward"]
    else:
        assert metrics["grad_norm"] > 0


PRECISIONS = {
    "4 bits": {"load_in_4bit": True},
    "16 bits": {"load_in_4bit": False},
    "full": {"full_finetuning": True},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_each_precision_trains_with_each_engine(client: Client, precision: str, engine: str) -> None:
    run(client, "sft", engine, model="qwen3-0.6b", fast=PRECISIONS[precision], per_device_train_batch_size=2)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_8b_shape_trains_in_4_bits(client: Client, engine: str) -> None:
    client.models.add("llama-8b", str(make_model("llama-8b", Path("/dev/shm/opensloth-shapes/llama-8b"))))
    client.models.wait_ready("llama-8b")
    run(client, "sft", engine, model="llama-8b", per_device_train_batch_size=2)
    client.models.delete("llama-8b")
