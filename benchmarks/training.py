"""The cost of being a service: the same SFT run through the service and as its bare script, in turns, in one session.

`-- MODEL` names a model folder; without one a small random Llama is made, whose steps take some 0.2 s on two cores.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.support import ROOT, Bench, save, service
from opensloth.jobs.states import TERMINAL
from tests.support.jobs import ADMIN, upload, wait_for
from tests.support.tiny_model import make_tokenizer
from tests.support.workers import running_worker

STEPS = 40
ROUNDS = 3


def main(options: list[str]) -> None:
    with service() as bench, tempfile.TemporaryDirectory() as folder:
        model = Path(options[0]) if options else make_small_model(Path(folder) / "model")
        bench.services.models.register("bench", str(model), ADMIN)
        data = ROOT / "examples/datasets/support_sft.jsonl"
        dataset = upload(bench.services, data.read_bytes())
        sides: dict[str, list[float]] = {"service": [], "bare": []}
        losses: dict[str, list[float]] = {}
        with running_worker(bench.services.settings, Path(folder)):
            wait_until_ready(bench)
            for _ in range(ROUNDS):
                job_id = run_job(bench, dataset)
                speed, losses["service"] = of_job(bench, job_id)
                sides["service"].append(speed)
                speed, losses["bare"] = run_bare(bench, job_id, model, data, Path(folder))
                sides["bare"].append(speed)
        medians = {name: round(statistics.median(values), 4) for name, values in sides.items()}
        # transformers prints four digits.
        differences = [abs(float(f"{a:.4g}") - b) for a, b in zip(losses["service"], losses["bare"], strict=True)]
        save(
            "training",
            {
                "steps_per_second": sides,
                "median": medians,
                "ratio": round(medians["service"] / medians["bare"], 4),
                "largest_loss_difference": max(differences),
            },
        )


def make_small_model(folder: Path) -> Path:
    """A random Llama with a byte-level tokenizer, large enough that the work is in its layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def wait_until_ready(bench: Bench) -> None:
    wait_for(lambda: bench.services.models.get("bench", ADMIN).status == "ready", timeout=120)


def run_job(bench: Bench, dataset: str) -> str:
    config = {
        "training_type": "sft",
        "fast_model_args": {"model_name": "bench", "max_seq_length": 512},
        "lora_args": {"r": 8},
        "sequence_packing": False,
    }
    arguments = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
    }
    spec = {"name": "bench", "dataset": dataset, "opensloth_config": config, "training_args": arguments}
    job_id = bench.services.jobs.submit(spec, ADMIN)[0].id
    # Once a second: looking more often would take the cores from the trainer, which has all of them on the other side.
    wait_for(lambda: bench.services.jobs.state(job_id, ADMIN) in TERMINAL, timeout=900, every=1.0)
    job = bench.services.jobs.get(job_id, ADMIN)
    if job.state != "succeeded":
        raise RuntimeError(f"the job failed: {job.error}")
    return job_id


def of_job(bench: Bench, job_id: str) -> tuple[float, list[float]]:
    """Steps a second as transformers counts them, and the losses."""
    events = bench.services.events.list(job_id, limit=100_000)
    (result,) = [event.data for event in events if event.type == "result"]
    (series,) = bench.services.jobs.metrics(job_id, ADMIN, ["loss"])
    return STEPS / float(result["metrics"]["train_runtime"]), [point["value"] for point in series["points"]]


def run_bare(bench: Bench, job_id: str, model: Path, data: Path, folder: Path) -> tuple[float, list[float]]:
    with bench.client() as client:
        text = client.get(f"/v1/jobs/{job_id}/script").raise_for_status().text
    script = folder / "bare.py"
    script.write_text(text)
    command = [sys.executable, str(script), "--model", str(model), "--data", str(data)]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    logged: list[dict[str, Any]] = [
        json.loads(found.replace("'", '"')) for found in re.findall(r"\{'.*?\}", output) if "nan" not in found
    ]
    (runtime,) = [float(entry["train_runtime"]) for entry in logged if "train_runtime" in entry]
    return STEPS / runtime, [float(entry["loss"]) for entry in logged if "loss" in entry]
