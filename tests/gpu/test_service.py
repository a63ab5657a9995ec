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
            made.models.add("llama-1b", str(make_model("llama-1b", Path("/tmp/opensloth-shapes/llama-1b"))))
            made.models.wait_ready("llama-1b")
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


def run(client: Client, method: str, engine: str, model: str = "llama-1b", **arguments: object) -> dict[str, object]:
    dataset = ROOT / "examples/datasets" / f"{DATA[method]}.jsonl"
    job = client.jobs.submit(
        {
            "name": f"{method}-{engine}",
            "dataset": client.files.upload(dataset).id,
            "opensloth_config": {
                "training_type": method,
                "engine": engine,
                "fast_model_args": {"model_name": model, "max_seq_length": 512},
                **OWN.get(method, {}),
            },
            "training_args": {"max_steps": 6, "logging_steps": 1, **arguments},
        }
    )
    for _ in client.jobs.follow(job.id):
        pass
    ended = client.jobs.get(job.id)
    print(json.dumps({"job": ended.name, "state": ended.state, "metrics": ended.as_json().get("metrics")}), flush=True)
    if ended.state != "succeeded":
        raise AssertionError(f"{ended.as_json()['error']}\n{client.jobs.log(job.id)[-6000:]}")
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
