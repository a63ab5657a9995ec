"""What two GPUs must show: equal steps, scaling, upstream's headline: `python -m benchmarks ranks [-- --part NAME]`.

Each part is a few processes of `benchmarks.engine_cells`; models are random, of real shapes, kept in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine_cells import Cell
from benchmarks.support import RESULTS, ROOT, save

SHAPES = Path("/dev/shm/opensloth-shapes")
METHODS = ("sft", "dpo", "kto", "orpo", "grpo")
PARTS = ("equality", "unsloth", "scaling", "headline", "shards")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--work", type=Path, default=Path("/tmp/opensloth-ranks"))
    parser.add_argument("--limit-s", type=float, default=400)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.limit_s
    for part in options.part or PARTS:
        print(f"-- {part} at {time.strftime('%X')}", flush=True)
        globals()[f"run_{part}"](options.work, deadline)
    summarize(options.work)


def shape(name: str) -> str:
    """The folder of a random model, made by a process of its own if it is not there."""
    folder = SHAPES / name
    if not (folder / "config.json").exists():
        code = f"from pathlib import Path; from tests.support.real_shapes import make_model; make_model({name!r}, "
        subprocess.run([sys.executable, "-c", f"{code}Path({str(folder)!r}))"], cwd=ROOT, check=True)
    return str(folder)


def start(work: Path, name: str, cells: Sequence[Cell], gpus: Sequence[int]) -> list[subprocess.Popen[bytes]]:
    """The processes of some cells, one a GPU, one group."""
    asked = work / f"{name}.json"
    given = {"output": str(work / f"{name}.jsonl"), "cells": [asdict(cell) for cell in cells]}
    asked.write_text(json.dumps({**given, "rendezvous": str(work / f"{name}.port")}))
    (work / f"{name}.port").unlink(missing_ok=True)
    started = []
    for rank in range(len(gpus)):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(gpus)), "TQDM_DISABLE": "1"}
        environment = {**os.environ, **ranks, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        with (work / f"{name}-{rank}.log").open("wb") as log:
            command = [sys.executable, "-m", "benchmarks.engine_cells", str(asked)]
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return started


def wait(processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> None:
    """Until all have ended or the time is over; then they are killed."""
    for process in processes:
        try:
            process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def equal_cells(ranks: int, engine: str, methods: Sequence[str]) -> list[Cell]:
    """The same global batch on any number of ranks."""
    model = shape("qwen3-0.6b")
    rows = {"grpo": 8, "kto": 4}
    return [
        Cell(
            name=f"{engine} {method}", model=model, engine=engine, method=method, rows=rows.get(method, 2),
            accumulation=4 // ranks, steps=5,
        )
        for method in methods
    ]  # fmt: skip


def run_equality(work: Path, deadline: float) -> None:
    """All methods by the transformers engine; what is compared runs at the same time, as nothing is timed."""
    cells = equal_cells(1, "transformers", METHODS)
    plain = [Cell(**{**asdict(cell), "name": f"plain {cell.method}", "side": "plain"}) for cell in cells[:4]]
    one = start(work, "equal-1", [*cells, *plain], [0])
    two = start(work, "equal-2", equal_cells(2, "transformers", METHODS), [0, 1])
    wait([*one, *two], deadline)


def run_unsloth(work: Path, deadline: float) -> None:
    """SFT and DPO by Unsloth."""
    one = start(work, "unsloth-1", equal_cells(1, "unsloth", ("sft", "dpo")), [1])
    two = start(work, "unsloth-2", equal_cells(2, "unsloth", ("sft", "dpo")), [0, 1])
    wait([*one, *two], deadline)


def run_scaling(work: Path, deadline: float) -> None:
    """8B, LoRA, 4,096 tokens a device and step."""
    cell = Cell(
        name="alone", model=shape("llama-8b"), rows=1, tokens=4096, lengths="full", steps=18, checkpointing=False,
        packing=False,
    )  # fmt: skip
    gate = work / "alone.go"
    values = asdict(cell)
    two = [
        Cell(**{**values, "name": "two flat", "after": str(gate)}),
        Cell(**{**values, "name": "two ddp", "reduce": "ddp"}),
        Cell(**{**values, "name": "two flat again"}),
    ]
    waiting = start(work, "scaling-2", two, [0, 1])
    other = Cell(**{**values, "name": "the other alone"})
    wait([*start(work, "scaling-1", [cell], [0]), *start(work, "scaling-other", [other], [1])], deadline)
    gate.touch()
    wait(waiting, deadline)


def run_headline(work: Path, deadline: float) -> None:
    """Qwen3 8B in 4 bits at a global batch of 32: plain Unsloth on one GPU, and ours packed on two."""
    model = shape("qwen3-8b")
    gate = work / "bare.go"
    bare = Cell(
        name="bare unsloth on one", model=model, side="bare", engine="unsloth", rows=8, accumulation=4, tokens=2048,
        bits=4, packing=False, steps=6,
    )  # fmt: skip
    ours = Cell(
        name="two packed", model=model, rows=4, accumulation=4, tokens=2048, bits=4, steps=6, after=str(gate),
        checkpointing=False,
    )  # fmt: skip
    waiting = start(work, "headline-2", [ours, Cell(**{**asdict(ours), "name": "two packed, checkpointing",
                                                        "checkpointing": True})], [0, 1])  # fmt: skip
    wait(start(work, "headline-1", [bare], [0]), deadline)
    gate.touch()
    wait(waiting, deadline)


def run_shards(work: Path, deadline: float) -> None:
    """All weights: 0.6B in shards on two as whole on one, and the 8B shape, whose states no one device holds."""
    alone = Cell(
        name="full sft", model=shape("qwen3-0.6b"), full=True, accumulation=4, steps=5, optim="adamw_torch_fused"
    )
    halves = Cell(**{**asdict(alone), "accumulation": 2, "shard": True})
    large = Cell(
        name="8b full in shards", model=shape("llama-8b"), full=True, shard=True, rows=1, tokens=4096, lengths="full",
        packing=False, steps=10, checkpointing=True, optim="adamw_torch_fused",
    )  # fmt: skip
    one = start(work, "shards-1", [alone], [0])
    wait([*one, *start(work, "shards-2", [halves, large], [0, 1])], deadline)


def summarize(work: Path) -> None:
    """What came out, with the ratios that were aimed for."""
    import torch

    found = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in work.glob("*.jsonl")}
    by_name = {cell["name"]: cell for cells in found.values() for cell in cells if "tokens_per_second" in cell}
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(0), "gpus": torch.cuda.device_count()}
    result["equality"] = [
        compare(one, two)
        for kind in ("equal", "unsloth", "shards")
        for one in found.get(f"{kind}-1", [])
        for two in found.get(f"{kind}-2", [])
        if one["name"] == two["name"]
    ]
    alone = {cell["name"]: cell for cell in found.get("equal-1", [])}
    result["faster_parts"] = [
        compare(alone[f"plain {method}"], alone[f"transformers {method}"])
        for method in METHODS
        if f"plain {method}" in alone
    ]
    for name, (above, below) in {
        "scaling_flat": ("two flat again", "alone"),
        "scaling_ddp": ("two ddp", "alone"),
        "headline": ("two packed", "bare unsloth on one"),
    }.items():
        if above in by_name and below in by_name:
            result[name] = round(by_name[above]["tokens_per_second"] / by_name[below]["tokens_per_second"], 3)
    result["cells"] = [cell for cells in found.values() for cell in cells]
    RESULTS.mkdir(exist_ok=True)
    save("ranks", result)


def compare(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """The largest relative differences of loss and gradient norm."""
    if "failed" in one or "failed" in two:
        return {"name": one["name"], "failed": [one.get("failed"), two.get("failed")]}

    def largest(what: str) -> float:
        pairs = zip(one[what], two[what], strict=True)
        return round(max(abs(a - b) / max(abs(a), abs(b), 1e-6) for a, b in pairs), 6)

    return {"name": one["name"], "loss": largest("loss"), "grad_norm": largest("grad_norm")}
