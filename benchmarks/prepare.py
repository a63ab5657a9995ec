"""Rows/s of preparation against `datasets.map` with the same tokenizer, on one process and on several, and its memory.

`-- MODEL [ROWS] [MEMORY_ROWS]` names a folder with a tokenizer (a byte-level one is made without it), the rows of a
timed run and the most rows of which memory is measured.

`map` renders and tokenizes a conversation a row, as TRL does, and `map_batched` a thousand at a time; preparation also
checks every row, finds what is trained on, filters and packs. All start at the JSONL file when the tokenizer is loaded
and end when the last row can be read. They take turns in one process, so that all see the same machine; medians of the
turns are kept, of wall time and of the CPU time of the process and its helpers.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.support import ROOT, save
from tests.support.tiny_model import make_tokenizer

TEXT = "the a of to sloth tree slowly climbs why because answer question number leaf rain branch sleeps hangs"
WORDS = TEXT.split(" ")
ROWS = 8_000
MEMORY_ROWS = 1_000_000
ROUNDS = 3


def main(options: list[str]) -> None:
    rows = int(options[1]) if len(options) > 1 else ROWS
    most = int(options[2]) if len(options) > 2 else MEMORY_ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = options[0] if options else str(folder / "tokenizer")
        if not options:
            make_tokenizer().save_pretrained(tokenizer)
        data = write_conversations(folder / "rows.jsonl", rows)
        turns = child("take_turns", tokenizer, data, folder)
        memory, count = {}, 10_000
        while count <= most:
            short = write_short(folder / "many.jsonl", count)
            memory[str(count)] = round(child("peak_of_one", tokenizer, short, folder)["peak_mb"], 1)
            count *= 10
    save("prepare", {"rows": rows, **summary(turns, rows), "peak_mb_by_rows": memory})


def summary(turns: dict[str, list[list[float]]], rows: int) -> dict[str, Any]:
    """Medians of the turns; ratios are of the turns of one round, above 1 where preparation is faster."""
    wall, cpu, own = ({name: [turn[i] for turn in some] for name, some in turns.items()} for i in range(3))

    def ratio(taken: dict[str, list[float]], slow: str, fast: str) -> float:
        return round(statistics.median(a / b for a, b in zip(taken[slow], taken[fast], strict=True)), 2)

    counts = sorted({int(name.rpartition("_")[2]) for name in turns})
    sides = [(side, count) for side in ("map", "map_batched") for count in counts]
    return {
        "rows_per_s": {name: round(rows / statistics.median(some)) for name, some in wall.items()},
        "cpu_ms_per_row": {name: round(1000 * statistics.median(some) / rows, 3) for name, some in cpu.items()},
        "wall_ratio": {f"{side}_{count}": ratio(wall, f"{side}_{count}", f"ours_{count}") for side, count in sides},
        "cpu_ratio": {f"{side}_{count}": ratio(cpu, f"{side}_{count}", f"ours_{count}") for side, count in sides},
        "speedup_of_ours": {str(count): ratio(wall, "ours_1", f"ours_{count}") for count in counts},
        # What the first process does alone bounds the speed-up, whatever else the machine does meanwhile.
        "highest_speedup_of_ours": {
            str(n): ratio({**own, "all": cpu["ours_1"]}, "all", f"ours_{n}") for n in counts[1:]
        },
    }


def write_conversations(path: Path, count: int) -> Path:
    """Conversations of one to three exchanges, some 100 tokens."""
    source = random.Random(0)

    def text() -> str:
        return " ".join(source.choices(WORDS, k=source.randint(5, 40)))

    with path.open("w") as file:
        for _ in range(count):
            roles = ("user", "assistant") * source.randint(1, 3)
            file.write(json.dumps({"messages": [{"role": role, "content": text()} for role in roles]}) + "\n")
    return path


def write_short(path: Path, count: int) -> Path:
    """Rows of some ten tokens, of which a million can be waited for."""
    with path.open("w") as file:
        file.writelines(json.dumps({"prompt": f"{number}:", "completion": "a leaf"}) + "\n" for number in range(count))
    return path


def child(task: str, tokenizer: str, data: Path, folder: Path) -> Any:
    """What the function `task` of this module finds, in a process of its own."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.prepare", task, tokenizer, str(data), str(folder)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(tokenizer: Any, data: str, folder: str) -> dict[str, list[list[float]]]:
    """Wall and CPU seconds of each turn, and those of this process alone, by side and number of processes."""
    cores = len(os.sched_getaffinity(0))
    turns: dict[str, list[list[float]]] = {}
    for round_ in range(ROUNDS + 1):
        for processes in sorted({1, 2, cores}):
            for name, run in SIDES.items():
                taken = timed(run, tokenizer, data, processes, folder)
                if round_:  # the first one warms up
                    turns.setdefault(f"{name}_{processes}", []).append(taken)
    return turns


def timed(run: Side, tokenizer: Any, data: str, processes: int, folder: str) -> list[float]:
    wall, cpu, own = time.perf_counter(), cpu_seconds(), time.process_time()
    run(tokenizer, data, processes, tempfile.mkdtemp(dir=folder))
    return [time.perf_counter() - wall, cpu_seconds() - cpu, time.process_time() - own]


def cpu_seconds() -> float:
    """Of this process and of the helpers that have ended."""
    taken = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in taken)


def peak_of_one(tokenizer: Any, data: str, folder: str) -> dict[str, float]:
    """How far the memory of the process grows above what it has when the tokenizer is loaded."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    run_ours(tokenizer, data, 1, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": time.perf_counter() - began, "peak_mb": peak / 1024}


def run_map(tokenizer: Any, data: str, processes: int, folder: str) -> None:
    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]}

    mapped(tokenize, data, processes, folder, batched=False)


def run_map_batched(tokenizer: Any, data: str, processes: int, folder: str) -> None:
    def tokenize(rows: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": tokenizer.apply_chat_template(rows["messages"], return_dict=True)["input_ids"]}

    mapped(tokenize, data, processes, folder, batched=True)


def mapped(tokenize: Callable[..., Any], data: str, processes: int, folder: str, *, batched: bool) -> None:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    rows = load_dataset("json", data_files=data, split="train", cache_dir=folder)
    done = rows.map(
        tokenize, batched=batched, num_proc=processes if processes > 1 else None, remove_columns=["messages"]
    )
    assert done[len(done) - 1]["input_ids"]


def run_ours(tokenizer: Any, data: str, processes: int, folder: str) -> None:
    from opensloth.datasets.canonical import CanonicalRows, FileRows
    from opensloth.datasets.prepare import prepare_sft

    rows = CanonicalRows(FileRows(data, "jsonl", "rows"), "sft")
    done = prepare_sft(rows, tokenizer, max_length=2048, packing=True, processes=processes).dataset
    assert done[len(done) - 1]["input_ids"]


Side = Callable[[Any, str, int, str], None]
SIDES: dict[str, Side] = {"map": run_map, "map_batched": run_map_batched, "ours": run_ours}


def in_child(task: str, name: str, data: str, folder: str) -> None:
    """The command of a child; prints what was found as JSON."""
    import datasets  # noqa: F401 - its memory is not preparation's
    from transformers import AutoTokenizer

    found = {"take_turns": take_turns, "peak_of_one": peak_of_one}[task]
    print(json.dumps(found(AutoTokenizer.from_pretrained(name), data, folder)))


if __name__ == "__main__":
    in_child(*sys.argv[1:])
