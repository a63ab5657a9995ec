"""Estimates of memory against the peaks of real trainings on a GPU: `python -m benchmarks memory`.

Each case is a trainer of its own on a random model of a real shape, three steps on rows that fill what the job lets
through; several run at a time, each measured by its own process (NVML where it tells, else PyTorch's reserve).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.support import ROOT, save
from opensloth.devices.estimate import GIB, estimate
from opensloth.devices.model_shape import ModelShape, read_shape
from opensloth.devices.nvml import Nvml
from opensloth.jobs.requirements import requirement
from opensloth.jobs.row_lengths import RowLengths
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, Resolved, resolve
from opensloth.training.memory import CONTEXT_BYTES
from opensloth.training.run_spec import DatasetRef, RunSpec
from tests.support.real_shapes import SHAPES

WORDS = "the quick brown fox jumps over the lazy dog and then it sleeps "
BRIEF = {"name": "length", "params": {"unit": "words", "max": 8, "tolerance": 30}}


@dataclass(frozen=True)
class Case:
    """One training; `arguments` and `fast` go over the defaults."""

    method: str
    model: str
    rows: int
    tokens: int
    engine: str = "transformers"
    fast: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is in one line."""
        further = [f"{name}={value}" for name, value in (self.fast | self.arguments).items()]
        return " ".join([self.engine, self.method, self.model, f"{self.rows}x{self.tokens}", *further])


IN_16 = {"load_in_4bit": False}
FULL = {"full_finetuning": True}
CASES = [
    Case("sft", "llama-1b", 4, 2048, fast=IN_16),
    Case("sft", "llama-1b", 4, 2048),
    Case("sft", "llama-1b", 2, 1024, fast=IN_16 | {"use_gradient_checkpointing": False}),
    Case("sft", "llama-1b", 1, 1024, fast=FULL),
    Case("dpo", "llama-1b", 2, 1024, fast=IN_16),
    Case("kto", "llama-1b", 4, 512, fast=IN_16),
    Case("orpo", "qwen3-0.6b", 2, 512, fast=IN_16),
    Case("grpo", "llama-1b", 8, 384, fast=IN_16),
    Case("sft", "qwen3-0.6b", 8, 1024, fast=IN_16),
    Case("sft", "llama-1b", 4, 2048, engine="unsloth"),
    Case("sft", "llama-1b", 4, 2048, engine="unsloth", fast=IN_16),
    Case("sft", "llama-1b", 1, 1024, engine="unsloth", fast=FULL),
    Case("dpo", "llama-1b", 2, 1024, engine="unsloth", fast=IN_16),
]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--large", action="store_true", help="also Llama 8B in 4 bits, whose model takes 16 GB of disk")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args(arguments)
    cases = [*CASES, *([Case("sft", "llama-8b", 2, 2048)] if options.large else [])]
    known = [case for case in cases if case.engine != "unsloth" or importlib.util.find_spec("unsloth")]
    chosen = [case for case in known if options.only in case.name]
    with tempfile.TemporaryDirectory(prefix="opensloth-memory-") as scratch:
        folder = Path(scratch)
        for shape in sorted({case.model for case in chosen}):
            # In a process of its own, which gives the GPU's memory back.
            made = f"from pathlib import Path; from tests.support.real_shapes import make_model; make_model({shape!r}, "
            subprocess.run([sys.executable, "-c", f"{made}Path({str(folder / shape)!r}))"], cwd=ROOT, check=True)
        with ThreadPoolExecutor(options.at_once) as pool:
            found = list(pool.map(lambda numbered: measure(folder, *numbered), enumerate(chosen)))
    save("memory", {"unit": "GiB", "cases": found})


def measure(folder: Path, number: int, case: Case) -> dict[str, Any]:
    """Runs one case to its end and puts its estimate beside it."""
    spec, resolved = make_run(folder, number, case)
    need = requirement(resolved, RowLengths(10**9, 10**6), devices=1, from_adapter=False, vocabulary=128_000)
    guess = estimate(shape_of(case.model), need.most)
    reserved, seen, failure = run(spec)
    result: dict[str, Any] = {"case": case.name, "estimate": gib(guess.total), "parts": parts(asdict(guess))}
    if failure is not None:
        result["failed"] = failure
    else:
        peak = max(seen, reserved + (CONTEXT_BYTES if not seen else 0))
        result |= {"peak": gib(peak), "reserved": gib(reserved), "by_nvml": bool(seen)}
        result["ratio"] = round(guess.total / peak, 3)
    print(json.dumps(result), flush=True)
    return result


def run(spec: RunSpec) -> tuple[int, int, str | None]:
    """Most bytes that PyTorch reserved, that NVML saw the process hold (0: it does not tell), and why it failed."""
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    log = Path(spec.run_dir) / "trainer.log"
    nvml, seen = Nvml(), 0
    gpus = nvml.gpus()
    with log.open("wb") as output:
        command = [sys.executable, "-m", "opensloth.training.main", spec.run_dir]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            seen = max(seen, nvml.process_bytes(gpus[0].uuid, process.pid) or 0)
            time.sleep(0.02)
    nvml.close()
    events = Path(spec.run_dir) / "events.jsonl"
    records = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
    if process.returncode != 0:
        failures = [record.get("message") for record in records if record["type"] == "failure"]
        return 0, seen, str(failures[0] if failures else log.read_text()[-2000:])
    metrics = [record["data"]["metrics"] for record in records if record["type"] == "metrics"]
    return max(int(entry.get("memory_peak_bytes", 0)) for entry in metrics), seen, None


def make_run(folder: Path, number: int, case: Case) -> tuple[RunSpec, Resolved]:
    """The run folder of a case, resolved as a worker on this machine would."""
    content = "".join(json.dumps(row) + "\n" for row in rows_of(case)).encode()
    data = folder / f"{number}.jsonl"
    data.write_bytes(content)
    own: dict[str, Any] = {"max_length": case.tokens}
    if case.method == "grpo":
        own = {"max_completion_length": case.tokens - 128, "max_prompt_length": 128, "reward_functions": [BRIEF]}
    config: dict[str, Any] = {
        "training_type": case.method,
        "engine": case.engine,
        "filter_overlength_samples": False,
        "fast_model_args": {"model_name": "bench", "max_seq_length": case.tokens, **case.fast},
        **({} if case.method == "sft" else {f"{case.method}_args": own}),
    }
    arguments = {"per_device_train_batch_size": case.rows, "gradient_accumulation_steps": 1, "max_steps": 3}
    unsloth = importlib.util.find_spec("unsloth") is not None
    facts = DeviceFacts(kind="cuda", bf16=True, has_unsloth=unsloth, has_bitsandbytes=True)
    resolved = resolve(OpenSlothConfig(**config), TrainingArguments(**{**arguments, **case.arguments}), facts)
    run_dir = folder / f"run-{number}"
    run_dir.mkdir()
    spec = RunSpec(
        job_id=f"ftjob-{number}",
        job_name=case.name,
        attempt=1,
        opensloth_config=resolved.opensloth_config,
        training_args=resolved.training_args,
        engine=resolved.engine,
        device="cuda",
        model=str(folder / case.model),
        base_name=case.model,
        dataset=DatasetRef(
            path=str(data), name=data.name, sha256=hashlib.sha256(content).hexdigest(), container="jsonl"
        ),
        run_dir=str(run_dir),
        storage_url=str(folder / "storage"),
        checkpoint_key=f"jobs/{number}/checkpoints",
        artifact_key=f"jobs/{number}/artifacts",
    )
    (run_dir / "run.json").write_text(spec.model_dump_json())
    return spec, resolved


def rows_of(case: Case) -> list[dict[str, Any]]:
    """Rows longer than the case lets through, so that each is as long as it may be; a token of theirs is a byte."""

    def said(role: str, times: int) -> list[dict[str, str]]:
        return [{"role": role, "content": WORDS * times}]

    times = case.tokens // len(WORDS) + 2
    user, answer = said("user", 1), said("assistant", times)
    rows: dict[str, dict[str, Any]] = {
        "sft": {"messages": [*user, *answer]},
        "kto": {"prompt": user, "completion": answer, "label": True},
        "grpo": {"prompt": said("user", 4)},
    }
    pair = {"prompt": user, "chosen": answer, "rejected": said("assistant", times + 1)}
    row = rows.get(case.method, pair)
    count = max(24, 4 * case.rows)
    return [{**row, **({"label": number % 2 == 0} if case.method == "kto" else {})} for number in range(count)]


def shape_of(name: str) -> ModelShape:
    """The shape by the config; the byte-level tokenizer does not change the model's vocabulary."""
    found = read_shape({**SHAPES[name], "model_type": SHAPES[name]["kind"]})
    assert found is not None
    return found


def gib(size: int) -> float:
    return round(size / GIB, 2)


def parts(values: dict[str, int]) -> dict[str, float]:
    return {name: gib(value) for name, value in values.items() if name != "trained_parameters" and gib(value)}
