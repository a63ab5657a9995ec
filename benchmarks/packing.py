"""Sixteen jobs of a team on one GPU, in four ways: `python -m benchmarks packing -- --side NAME`, one command a side.

`packed`: all of them submitted to the service at once. `alone`: the same, each with the GPU to itself. `scripts`: the
jobs' own bare scripts, one after the other. `four`: these, four at a time, as by hand. What has ended is kept in
`--state`, so that the same command goes on where it was cut off; the sides of one card are merged into the result.
Without a GPU the models are tiny and the steps few: that proves the commands, not the service.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.engine_cells import Cell, rows_of
from benchmarks.gpu_idle import gpu_name
from benchmarks.ranks import shape
from benchmarks.support import RESULTS, ROOT, Bench, save, service
from opensloth.devices.rows import DeviceRow
from opensloth.jobs.rows import AttemptRow
from opensloth.jobs.script import script_of
from opensloth.jobs.states import TERMINAL
from tests.support.jobs import ADMIN, upload, wait_for
from tests.support.workers import running_worker
from worker.compiled import compile_caches
from worker.standby_pool import LIST_NAME

MARGIN = 1.15
"""The most by which an estimate should exceed the measured peak."""
LACKED = frozenset({"cuda_oom", "cpu_oom", "estimate_low", "crowded_out"})
"""Reasons of attempts that had too little memory."""
OUT_OF_MEMORY = re.compile(r"out of memory", re.IGNORECASE)


def jobs() -> list[Cell]:
    """Five jobs of 0.6B, six of 1B and five of 8B: SFT and DPO, for 20 to 40 s of steps each on an H100."""
    small = {"model": "qwen3-0.6b", "tokens": 1024}
    middle = {"model": "llama-1b", "tokens": 1024}
    large = {"model": "llama-8b", "tokens": 1024, "bits": 4, "rows": 2}
    kinds: list[tuple[int, dict[str, Any]]] = [
        (3, small | {"rows": 4, "steps": 120}),
        (2, small | {"rows": 2, "steps": 90, "method": "dpo"}),
        (3, middle | {"rows": 4, "steps": 140}),
        (3, middle | {"rows": 2, "steps": 100, "method": "dpo"}),
        (3, large | {"steps": 90}),
        (2, large | {"steps": 50, "method": "dpo"}),
    ]
    made = [Cell(name="", packing=False, **values) for count, values in kinds for _ in range(count)]
    # As they come in: no kind after the other.
    mixed = [made[(place * 7) % len(made)] for place in range(len(made))]
    return [
        replace(cell, name=f"{place:02} {cell.model} {cell.method} {cell.rows}x{cell.tokens}")
        for place, cell in enumerate(mixed)
    ]


def tiny(cells: list[Cell]) -> list[Cell]:
    """The same jobs for a CPU, where each model is one of two tiny ones."""
    return [replace(cell, tokens=160, steps=4, bits=16, name=f"tiny {cell.name}") for cell in cells]


@dataclass
class Box:
    """What a side works with; `specs`, `models` and `files` go by the name of the job."""

    bench: Bench
    folder: Path
    specs: dict[str, dict[str, Any]]
    models: dict[str, Path]
    files: dict[str, Path]
    deadline: float
    record: Callable[[dict[str, Any]], None]


def main(options: list[str]) -> None:
    """One side, or with none named only the merged result."""
    asked = _arguments(options)
    card = gpu_name() or "CPU"
    cells = (jobs() if card != "CPU" else tiny(jobs()))[: asked.jobs]
    if asked.side:
        run_side(asked, card, cells)
    result = summarize(asked.state, card, {cell.name for cell in cells})
    if asked.jobs is None:
        save("packing", result)
    else:
        print(json.dumps(result, indent=1), flush=True)


def _arguments(options: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks packing --")
    parser.add_argument("--side", choices=list(SIDES))
    parser.add_argument("--state", type=Path, default=RESULTS / "packing-sides.jsonl")
    parser.add_argument("--limit-s", type=float, default=420, help="after so many s from its first job a side is left")
    parser.add_argument("--jobs", type=int, default=None, help="only the first so many; nothing is saved then")
    return parser.parse_args(options)


def run_side(asked: argparse.Namespace, card: str, cells: list[Cell]) -> None:
    """The jobs of a side that have not ended in an earlier session; each is kept as it ends."""
    done = {line["name"] for line in read(asked.state, card) if line["side"] == asked.side}
    left = [cell for cell in cells if cell.name not in done]
    if not left:
        print(f"all of {asked.side} have ended on this card", flush=True)
        return
    session = f"{time.time():.0f}"
    asked.state.parent.mkdir(parents=True, exist_ok=True)

    def record(line: dict[str, Any]) -> None:
        with asked.state.open("a") as state:
            state.write(json.dumps({"side": asked.side, "card": card, "session": session, **line}) + "\n")

    values = {} if card != "CPU" else {"standby": 1, "devices": "cpu:1"}
    with service(values) as bench, tempfile.TemporaryDirectory(prefix="opensloth-packing-") as name:
        SIDES[asked.side](make_box(bench, Path(name), left, card, asked, record))


def make_box(
    bench: Bench,
    folder: Path,
    cells: list[Cell],
    card: str,
    asked: argparse.Namespace,
    record: Callable[[dict[str, Any]], None],
) -> Box:
    """Models, data and the bodies of the jobs; the models are registered and their weights in the page cache."""
    folders = {}
    for name in sorted({cell.model for cell in cells}):
        folders[name] = Path(shape(name)) if card != "CPU" else _tiny_model(folder / name)
        bench.services.models.register(name, str(folders[name]), ADMIN)
    box = Box(bench, folder, {}, {}, {}, asked.limit_s, record)
    for cell in cells:
        content = "".join(json.dumps(row) + "\n" for row in rows_of(cell, 1)).encode()
        file = folder / f"{cell.name[:7].replace(' ', '-')}.jsonl"
        file.write_bytes(content)
        box.specs[cell.name] = spec_of(cell, upload(bench.services, content), card)
        box.models[cell.name], box.files[cell.name] = folders[cell.model], file
    return box


def spec_of(cell: Cell, dataset: str, card: str) -> dict[str, Any]:
    """The body that a member of the team posts."""
    own = {"dpo_args": {"max_length": cell.tokens}} if cell.method == "dpo" else {}
    config = {
        "training_type": cell.method,
        "engine": cell.engine,
        "fast_model_args": {
            "model_name": cell.model,
            "max_seq_length": cell.tokens,
            "load_in_4bit": cell.bits == 4,
        },
        "lora_args": {"r": 16},
        "sequence_packing": cell.packing,
        **own,
    }
    arguments = {
        "max_steps": cell.steps,
        "per_device_train_batch_size": cell.rows,
        "gradient_accumulation_steps": cell.accumulation,
        "logging_steps": 10,
    }
    if card == "CPU":
        config["lora_args"] = {"r": 4}
    # On CPUs only a job that says what it needs shares a slot.
    resources: dict[str, Any] = {} if card != "CPU" else {"memory": "2GiB"}
    return {
        "name": cell.name,
        "dataset": dataset,
        "opensloth_config": config,
        "training_args": arguments,
        "resources": resources,
    }


@contextlib.contextmanager
def warm_worker(box: Box) -> Iterator[None]:
    """A worker that knows the models and has its standby."""
    services = box.bench.services
    with running_worker(services.settings, box.folder) as worker:
        try:
            names = {path.name for path in box.models.values()}
            wait_for(lambda: all(services.models.get(name, ADMIN).status == "ready" for name in names), 300, 0.2)
            wait_for(lambda: _has_device(services), 60, 0.2)
            yield
        finally:
            print(worker.log.read_text()[-1500:], flush=True)


def by_service(box: Box, *, exclusive: bool) -> None:
    """All jobs are submitted at once; what has not ended by the limit is cancelled, and not kept."""
    services = box.bench.services
    with warm_worker(box), box.bench.client() as client:
        estimates = {name: services.estimates.estimate(spec, ADMIN) for name, spec in box.specs.items()}
        wait_for(lambda: _standby_ready(services), 180, 0.2)
        began = time.time()
        left = {}
        for name, spec in box.specs.items():
            asked = spec | {"resources": spec["resources"] | {"exclusive": exclusive}}
            left[client.post("/v1/jobs", json=asked).raise_for_status().json()["id"]] = name
        while left and time.time() - began < box.deadline:
            time.sleep(0.5)
            for job_id in [one for one in left if services.jobs.state(one, ADMIN) in TERMINAL]:
                parts = estimates[left[job_id]].parts
                estimate = parts.total if parts is not None else None
                box.record({"name": left.pop(job_id), "estimate": estimate, **of_job(services, job_id, began)})
        for job_id in left:
            client.post(f"/v1/jobs/{job_id}/cancel")
        wait_for(lambda: all(services.jobs.state(one, ADMIN) in TERMINAL for one in left), 60, 0.5)


def of_job(services: Any, job_id: str, began: float) -> dict[str, Any]:
    """How a job ended and when, in seconds since `began`; the most memory it was seen to use, and where it lacked."""
    with services.database.read() as session:
        attempts = session.scalars(select(AttemptRow).where(AttemptRow.job_id == job_id)).all()
    ended = [attempt.ended_at for attempt in attempts if attempt.ended_at is not None]
    first = [attempt.first_step_at for attempt in attempts if attempt.first_step_at is not None]
    return {
        "state": services.jobs.state(job_id, ADMIN),
        "ended_s": round(max(ended, default=time.time()) - began, 2),
        "first_step_s": round(min(first) - began, 2) if first else None,
        "peak": max((attempt.peak_bytes or 0 for attempt in attempts), default=0),
        "given": attempts[-1].memory_bytes if attempts else None,
        "out_of_memory": sum(attempt.outcome in LACKED for attempt in attempts),
    }


def by_scripts(box: Box, *, at_once: int) -> None:
    """The scripts that the service writes for the jobs, run by hand; the worker is gone by then."""
    services = box.bench.services
    with warm_worker(box):
        pass
    with box.bench.client() as client:
        texts = {}
        for name, spec in box.specs.items():
            job_id = client.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
            texts[name] = script_of(services.database, services.models, job_id, ADMIN)
    began = time.time()
    with ThreadPoolExecutor(at_once) as pool:
        for line in pool.map(lambda name: run_script(box, name, texts[name], began), box.specs):
            if line is not None:
                box.record(line)


def run_script(box: Box, name: str, text: str, began: float) -> dict[str, Any] | None:
    """One script in a folder of its own; None if the side's time ended before it."""
    left = box.deadline - (time.time() - began)
    if left <= 0:
        return None
    folder = box.folder / f"by-hand-{name[:7].replace(' ', '-')}"
    folder.mkdir()
    (folder / "script.py").write_text(text)
    command = [sys.executable, "script.py", "--model", str(box.models[name]), "--data", str(box.files[name])]
    caches = compile_caches(box.bench.services.settings, {})
    environment = {**os.environ, **caches, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    started = time.time()
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=left, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    said = done.stdout + done.stderr
    if done.returncode:
        print(said[-2000:], flush=True)
    trained = re.findall(r"'train_runtime': '?([\d.]+)", said)
    return {
        "name": name,
        "state": "failed" if done.returncode else "succeeded",
        "began_s": round(started - began, 2),
        "ended_s": round(time.time() - began, 2),
        "train_s": float(trained[-1]) if trained else None,
        "out_of_memory": int(bool(done.returncode and OUT_OF_MEMORY.search(said))),
    }


SIDES: dict[str, Callable[[Box], None]] = {
    "packed": lambda box: by_service(box, exclusive=False),
    "alone": lambda box: by_service(box, exclusive=True),
    "scripts": lambda box: by_scripts(box, at_once=1),
    "four": lambda box: by_scripts(box, at_once=4),
}


def read(state: Path, card: str) -> list[dict[str, Any]]:
    """What has ended on this card."""
    lines = [json.loads(line) for line in state.read_text().splitlines()] if state.exists() else []
    return [line for line in lines if line["card"] == card]


def summarize(state: Path, card: str, names: set[str]) -> dict[str, Any]:
    """Makespans of the sides that are complete, what lacked memory, and estimates against peaks.

    A side that was cut off and went on has the sum of its sessions, each until the last job that ended in it: what
    was lost with the cut is not counted against it.
    """
    lines = [line for line in read(state, card) if line["name"] in names]
    result: dict[str, Any] = {"device": card, "jobs": len(names), "sides": {}}
    for side in SIDES:
        ended = [line for line in lines if line["side"] == side]
        sessions: dict[str, float] = {}
        for line in ended:
            sessions[line["session"]] = max(sessions.get(line["session"], 0.0), line["ended_s"])
        result["sides"][side] = {
            "ended": len({line["name"] for line in ended}),
            "makespan_s": round(sum(sessions.values()), 1) if len(ended) >= len(names) else None,
            "sessions": len(sessions),
            "failed": sum(line["state"] != "succeeded" for line in ended),
            "out_of_memory": sum(line["out_of_memory"] for line in ended),
        }
    packed = result["sides"]["packed"]["makespan_s"]
    for side in ("alone", "scripts", "four"):
        other = result["sides"][side]["makespan_s"]
        result[f"{side}_by_packed"] = round(other / packed, 2) if other and packed else None
    result["estimates"] = estimates_of(lines)
    return {**result, "ended": lines}


def estimates_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Estimate by peak of the packed jobs, and the share that is not below it and within the margin."""
    measured = [line for line in lines if line["side"] == "packed" and line.get("peak") and line.get("estimate")]
    ratios = {line["name"]: round(line["estimate"] / line["peak"], 3) for line in measured}
    within = sum(1.0 <= ratio <= MARGIN for ratio in ratios.values())
    return {"ratios": ratios, "within_margin": round(within / len(ratios), 2) if ratios else None}


def _tiny_model(folder: Path) -> Path:
    # In a process of its own, as with the large ones.
    code = "from pathlib import Path; from tests.support.tiny_model import make_tiny_model; "
    subprocess.run([sys.executable, "-c", f"{code}make_tiny_model(Path({str(folder)!r}))"], cwd=ROOT, check=True)
    return folder


def _has_device(services: Any) -> bool:
    with services.database.read() as session:
        return session.scalar(select(DeviceRow.id).limit(1)) is not None


def _standby_ready(services: Any) -> bool:
    path = services.settings.home / "standby" / LIST_NAME
    known = json.loads(path.read_text()) if path.exists() else []
    return any(one["ready"] for one in known)
