"""Which engine is fastest for what: `python -m benchmarks engines [-- --group NAME]` on one GPU, at most 24 cells.

One process an engine and method group; while one trains, the next does its imports and waits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine_cells import Cell
from benchmarks.ranks import SHAPES, start, wait
from benchmarks.support import ROOT, save
from tests.support.real_shapes import SHAPES as VALUES

LLAMA_8B, LLAMA_1B, QWEN = (str(SHAPES / name) for name in ("llama-8b", "llama-1b", "qwen3-0.6b"))
PACKED: dict[str, Any] = {"rows": 4, "tokens": 2048, "lengths": "varied", "steps": 10}
SCRIPT: dict[str, Any] = {"rows": 2, "accumulation": 4, "bits": 4, "packing": False, "steps": 10}
SAME_DATA: dict[str, Any] = {"bits": 4, "steps": 10, "checkpointing": False}
PAIRS: dict[str, Any] = {"method": "dpo", "tokens": 1024}

GROUPS: dict[str, list[Cell]] = {
    "ours 8b": [
        Cell("8b sft packed", LLAMA_8B, checkpointing=False, **PACKED),
        Cell("8b sft as the script", LLAMA_8B, rows=3, **SAME_DATA),
        Cell("8b dpo as the script", LLAMA_8B, rows=4, accumulation=2, **PAIRS, **SAME_DATA),
        Cell("8b sft packed 4 bits", LLAMA_8B, checkpointing=False, bits=4, **PACKED),
        Cell("8b sft packed, checkpointing", LLAMA_8B, checkpointing=True, **PACKED),
    ],
    "bare 8b": [
        Cell("8b sft script", LLAMA_8B, side="bare", engine="unsloth", **SCRIPT),
        Cell("8b dpo script", LLAMA_8B, side="bare", engine="unsloth", **PAIRS, **SCRIPT),
    ],
    "unsloth 8b": [
        Cell("8b sft packed 4 bits", LLAMA_8B, engine="unsloth", bits=4, **PACKED),
        Cell("8b sft packed", LLAMA_8B, engine="unsloth", **PACKED),
    ],
    "ours 1b": [
        Cell("1b sft packed", LLAMA_1B, checkpointing=False, **PACKED),
        Cell("1b sft packed, fused AdamW", LLAMA_1B, checkpointing=False, optim="adamw_torch_fused", **PACKED),
        Cell("1b sft as the script", LLAMA_1B, rows=3, **SAME_DATA),
        Cell("1b dpo as the script", LLAMA_1B, rows=4, accumulation=2, **PAIRS, **SAME_DATA),
        Cell("1b sft full", LLAMA_1B, full=True, checkpointing=False, **PACKED),
        Cell("0.6b sft packed", QWEN, checkpointing=False, **PACKED),
    ],
    "bare 1b": [
        Cell("1b sft script", LLAMA_1B, side="bare", engine="unsloth", **SCRIPT),
        Cell("1b dpo script", LLAMA_1B, side="bare", engine="unsloth", **PAIRS, **SCRIPT),
    ],
    "unsloth 1b": [
        Cell("1b sft packed", LLAMA_1B, engine="unsloth", **PACKED),
        Cell("1b dpo as the script", LLAMA_1B, engine="unsloth", rows=4, accumulation=2, bits=4, steps=10, **PAIRS),
        Cell("1b sft full", LLAMA_1B, engine="unsloth", full=True, **PACKED),
        Cell("0.6b sft packed", QWEN, engine="unsloth", **PACKED),
    ],
    "plain": [
        Cell("8b sft packed, checkpointing", LLAMA_8B, side="plain", checkpointing=True, **PACKED),
        Cell("1b sft packed", LLAMA_1B, side="plain", checkpointing=False, **PACKED),
    ],
}
PEAK = """
import json, torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
for _ in range(3): a @ b
torch.cuda.synchronize()
times = []
for _ in range(20):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record(); a @ b; end.record(); torch.cuda.synchronize(); times.append(start.elapsed_time(end))
print(json.dumps({"gpu": torch.cuda.get_device_name(0), "torch": torch.__version__,
                  "matmul_tflops": round(2 * 8192**3 / sorted(times)[10] / 1e9, 1)}))
"""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    parser.add_argument("--work", type=Path, default=Path("/tmp/opensloth-engines"))
    parser.add_argument("--limit-s", type=float, default=480)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.limit_s
    chosen = options.group or list(GROUPS)
    make_models({cell.model for name in chosen for cell in GROUPS[name]})
    peak = json.loads(subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True).stdout)
    ahead = begin(options.work, chosen[0])
    for place, name in enumerate(chosen):
        processes = ahead
        gate(options.work, name).touch()
        if place + 1 < len(chosen):
            ahead = begin(options.work, chosen[place + 1])
        wait(processes, deadline)
        print(f"-- {name} ended at {time.strftime('%X')}", flush=True)
    summarize(options.work, peak)


def make_models(folders: set[str]) -> None:
    """One process makes the random models that are not there."""
    names = sorted(Path(folder).name for folder in folders)
    code = (
        f"from pathlib import Path; from tests.support.real_shapes import make_model; [make_model(n, Path('{SHAPES}')"
    )
    subprocess.run([sys.executable, "-c", f"{code} / n) for n in {names!r}]"], cwd=ROOT, check=True)


def gate(work: Path, name: str) -> Path:
    """The file that lets a group begin."""
    return work / f"{name.replace(' ', '-')}.go"


def begin(work: Path, name: str) -> list[subprocess.Popen[bytes]]:
    """Starts a group's process, which waits after its imports."""
    gate(work, name).unlink(missing_ok=True)
    first, *others = GROUPS[name]
    cells = [Cell(**{**vars(first), "after": str(gate(work, name))}), *others]
    return start(work, name.replace(" ", "-"), cells, [0])


def summarize(work: Path, peak: dict[str, Any]) -> None:
    """All cells with their utilisation, and the ratios that were aimed for."""
    cells = [json.loads(line) for path in sorted(work.glob("*.jsonl")) for line in path.read_text().splitlines()]
    for cell in cells:
        if "tokens_per_second" in cell:
            flops = cell["tokens_per_second"] * flops_a_token(cell) / 1e12
            cell["mfu"] = round(flops / peak["matmul_tflops"], 3)
    speed = {
        f"{cell['side']} {cell['engine']} {cell['name']}": cell["tokens_per_second"]
        for cell in cells
        if "tokens_per_second" in cell
    }
    ratios = {}
    for size in ("8b", "1b"):
        for method in ("sft", "dpo"):
            ours = speed.get(f"opensloth transformers {size} {method} as the script")
            bare = speed.get(f"bare unsloth {size} {method} script")
            if ours and bare:
                ratios[f"{size} {method}"] = round(ours / bare, 3)
    save("engines", {**peak, "ratios_to_bare_unsloth": ratios, "tokens_per_second": speed, "cells": cells})


def flops_a_token(cell: dict[str, Any]) -> float:
    """Floating-point operations that the training needs for each token, attention and recomputation left out.

    Forward 2 for each weight of a linear layer, backward 2 more for the inputs' gradients, and 2 for the weights' own
    where they are trained; DPO's reference is one forward pass more.
    """
    shape = VALUES[Path(cell["model"]).name]
    hidden, layers = int(shape["hidden_size"]), int(shape["num_hidden_layers"])
    head = int(shape["head_dim"])
    query, key = int(shape["num_attention_heads"]) * head, int(shape["num_key_value_heads"]) * head
    layer = hidden * (2 * query + 2 * key + 3 * int(shape["intermediate_size"]))
    weights = layers * layer + int(shape["vocab_size"]) * hidden
    return weights * ((6 if cell["full"] else 4) + (2 if cell["method"] == "dpo" else 0))


if __name__ == "__main__":
    main(sys.argv[1:])
