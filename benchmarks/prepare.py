"""Rows/s of preparation against `datasets.map` with the same tokenizer, on one process and on several, and its memory.

`-- MODEL [ROWS] [MEMORY_ROWS]` names a folder with a tokenizer (a byte-level one is made without it), the rows of a
timed run (20,000) and the most rows of which memory is measured (1,000,000). Each run is a process of its own.

`map` renders and tokenizes a conversation a row, as TRL does; preparation also finds what is trained on, filters and
packs. Both start when the tokenizer is loaded and end when the last row can be read.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.support import ROOT, save
from tests.support.tiny_model import make_tokenizer

TEXT = "the a of to sloth tree slowly climbs why because answer question number leaf rain branch sleeps hangs"
WORDS = TEXT.split(" ")
ROUNDS = 3


def main(options: list[str]) -> None:
    rows = int(options[1]) if len(options) > 1 else 20_000
    most = int(options[2]) if len(options) > 2 else 1_000_000
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = options[0] if options else str(Path(folder) / "tokenizer")
        if not options:
            make_tokenizer().save_pretrained(tokenizer)
        data = write_rows(Path(folder) / "rows.jsonl", rows)
        speed: dict[str, float] = {}
        for _ in range(ROUNDS):  # in turns, so that both sides see the same machine
            for processes in sorted({1, min(2, cores), cores}):
                for side in ("map", "ours"):
                    name = f"{side}_{processes}"
                    found = measure(side, tokenizer, data, processes, Path(folder))
                    speed[name] = max(speed.get(name, 0.0), rows / found["seconds"])
        memory = {}
        count = 10_000
        while count <= most:
            big = write_rows(Path(folder) / "many.jsonl", count)
            memory[count] = round(measure("ours", tokenizer, big, 1, Path(folder))["peak_mb"], 1)
            count *= 10
    result = {"rows": rows, "rows_per_s": {name: round(value) for name, value in speed.items()}, "peak_mb": memory}
    save("prepare", {**result, "ratio_1": round(speed["ours_1"] / speed["map_1"], 2)})


def write_rows(path: Path, count: int) -> Path:
    """Conversations of one to three exchanges, some 100 tokens."""
    source = random.Random(0)

    def text() -> str:
        return " ".join(source.choices(WORDS, k=source.randint(5, 40)))

    with path.open("w") as file:
        for _ in range(count):
            turns = source.randint(1, 3)
            messages = [{"role": role, "content": text()} for _ in range(turns) for role in ("user", "assistant")]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def measure(side: str, tokenizer: str, data: Path, processes: int, folder: Path) -> dict[str, float]:
    arguments = ["--child", side, tokenizer, str(data), str(processes), str(folder)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment["HF_DATASETS_CACHE"] = tempfile.mkdtemp(dir=folder)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.prepare", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(side: str, name: str, data: str, processes: str, folder: str) -> None:
    """One timed run; prints seconds and the growth of the process's memory while it ran."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    run = run_map if side == "map" else run_ours
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    run(tokenizer, data, int(processes), folder)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024}))


def run_map(tokenizer: Any, data: str, processes: int, folder: str) -> None:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]}

    rows = load_dataset("json", data_files=data, split="train")
    done = rows.map(tokenize, num_proc=processes if processes > 1 else None, remove_columns=["messages"])
    assert done[len(done) - 1]["input_ids"]


def run_ours(tokenizer: Any, data: str, processes: int, folder: str) -> None:
    from opensloth.datasets.canonical import CanonicalRows, FileRows
    from opensloth.datasets.prepare import prepare_sft

    rows = CanonicalRows(FileRows(data, "jsonl", "rows"), "sft")
    done = prepare_sft(rows, tokenizer, max_length=2048, packing=True, processes=processes).dataset
    assert done[len(done) - 1]["input_ids"]


if __name__ == "__main__":
    child(*sys.argv[2:])
