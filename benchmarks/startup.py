"""From submission to the end of the first optimizer step, with standbys and beside the bare script; then back to back.

`-- --help` lists the options. Without a model it is a random Llama of 1B's shape where there is a GPU, and a small one
on a CPU. What is done so far is saved after each run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu_idle import GpuWatch, device_mib, gpu_name
from benchmarks.support import ROOT, Bench, save, service
from benchmarks.training import make_small_model, wait_until_ready
from opensloth.jobs.rows import AttemptRow
from opensloth.jobs.states import TERMINAL
from tests.support.jobs import ADMIN, upload, wait_for
from tests.support.workers import running_worker
from worker.compiled import compile_caches
from worker.standby_pool import LIST_NAME

MAKE = "from pathlib import Path; from tests.support.real_shapes import make_model; make_model('llama-1b', Path({!r}))"
PARTS = ("starting", "loading_model", "preparing_data", "training", "started", "saving", "succeeded")
STEADY_FROM = 5
"""Steps before this one fill caches."""


def main(options: list[str]) -> None:
    asked = _arguments(options)
    gpu = gpu_name()
    engines = ["transformers", "unsloth"] if gpu and importlib.util.find_spec("unsloth") else ["transformers"]
    with service({"standby": len(engines)}) as bench, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Run(bench, folder, _model(asked.model, gpu, folder), asked.steps, {"device": gpu or "CPU"})
        bench.services.models.register("bench", str(run.model), ADMIN)
        with running_worker(bench.services.settings, folder) as worker:
            try:
                wait_until_ready(bench)
                run.all(asked.engine or engines, asked)
            finally:
                print(worker.log.read_text()[-2000:], flush=True)


def _arguments(options: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup --")
    parser.add_argument("--model")
    parser.add_argument("--engine", action="append", choices=["transformers", "unsloth"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3600.0, help="no round begins that would end after so many s")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2, help="jobs back to back, for each engine")
    parser.add_argument("--job-steps", type=int, default=250, help="their steps; longer than a standby's imports")
    return parser.parse_args(options)


def _model(given: str | None, gpu: str | None, folder: Path) -> Path:
    if given:
        return Path(given)
    if gpu is None:
        return make_small_model(folder / "model")
    # In a process of its own: this one must not hold memory on the GPU.
    subprocess.run([sys.executable, "-c", MAKE.format(str(folder / "model"))], cwd=ROOT, check=True)
    return folder / "model"


class Run:
    """One session: a service, a model, and what was measured so far."""

    def __init__(self, bench: Bench, folder: Path, model: Path, steps: int, result: dict[str, Any]) -> None:
        self.bench, self.folder, self.model, self.steps, self.result = bench, folder, model, steps, result
        self.data = ROOT / "examples/datasets/support_sft.jsonl"
        self.dataset = upload(bench.services, self.data.read_bytes())

    def all(self, engines: list[str], asked: argparse.Namespace) -> None:
        """Rounds of each engine through the service and bare; jobs back to back after the first round."""
        began = time.monotonic()
        for engine in engines:  # the first job also fills the caches for both sides, and asks for the next standby
            self.result[engine] = {"rounds": {"service": [], "bare": []}, "first_job": self.one(engine, wait=False)[1]}
            self.result[engine]["standby"] = self.standby(engine)
        longest = 0.0
        for number in range(asked.rounds):
            if number and time.monotonic() - began + longest > asked.limit:
                break
            start = time.monotonic()
            self.round(engines)
            longest = max(longest, time.monotonic() - start)
            if number == 0:
                for engine in engines:
                    self.back_to_back(engine, asked.jobs, asked.job_steps)

    def round(self, engines: list[str]) -> None:
        """Each engine's job on an idle box, then the same scripts; nothing is imported while those run."""
        jobs = {}
        for engine in engines:
            jobs[engine], measured = self.one(engine)
            self.result[engine]["rounds"]["service"].append(measured)
        wait_for(lambda: all(self.ready(engine) for engine in engines), 300, 0.2)
        for engine in engines:
            sides = self.result[engine]["rounds"]
            sides["bare"].append(self.bare(jobs[engine]))
            self.result[engine] |= summary(sides)
            save("startup", self.result)

    def standby(self, engine: str) -> dict[str, Any]:
        """What one that is ready holds."""
        wait_for(lambda: self.ready(engine), 300, 0.1)
        (pid,) = [one["pid"] for one in self.standbys() if one["engine"] == engine]
        return {
            "host_mib": psutil.Process(pid).memory_info().rss >> 20,
            "device_mib": device_mib(pid),
        }

    def one(self, engine: str, *, wait: bool = True) -> tuple[str, dict[str, Any]]:
        """A job on an idle box; `wait` until it has a standby."""
        if wait:
            wait_for(lambda: self.ready(engine), 300, 0.2)
        submitted, (job_id,) = time.time(), self.submit(engine, 1, self.steps)
        self.wait_ended(job_id)
        return job_id, self.measure(job_id, submitted)

    def submit(self, engine: str, count: int, steps: int) -> list[str]:
        config = {
            "training_type": "sft",
            "engine": engine,
            "fast_model_args": {"model_name": "bench", "max_seq_length": 512, "load_in_4bit": False},
            "lora_args": {"r": 16},
            "sequence_packing": False,
        }
        arguments = {
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "logging_steps": 1,
        }
        spec = {"name": f"startup {engine}", "dataset": self.dataset, "resources": {"exclusive": True}}
        spec |= {"opensloth_config": config, "training_args": arguments}
        with self.bench.client() as client:
            answers = [client.post("/v1/jobs", json=spec).raise_for_status().json() for _ in range(count)]
        return [answer["id"] for answer in answers]

    def wait_ended(self, job_id: str) -> None:
        services = self.bench.services
        wait_for(lambda: services.jobs.state(job_id, ADMIN) in TERMINAL, 300, 0.5)
        job = services.jobs.get(job_id, ADMIN)
        if job.state != "succeeded":
            raise RuntimeError(f"the job failed: {job.error}")

    def measure(self, job_id: str, submitted: float) -> dict[str, Any]:
        """Seconds since `submitted` at which each thing happened, and the speed of the steady steps."""
        events = self.bench.services.events.list(job_id, limit=100_000)
        at: dict[str, float] = {}
        for event in events:
            name = {"state": event.data.get("to"), "phase": event.data.get("phase")}.get(event.type, event.type)
            at.setdefault(str(name), round(seconds(event.time) - submitted, 3))
        (started,) = [event for event in events if event.type == "started"]
        steps = [seconds(event.time) for event in events if event.type == "metrics" and "loss" in event.data["metrics"]]
        with self.bench.services.database.read() as session:
            ranks = session.get_one(AttemptRow, (job_id, 1)).processes
        return {
            "first_step_s": at["started"],
            "standby": all(rank.get("standby") for rank in ranks),
            "timings": started.data.get("timings"),
            "at": {name: at[name] for name in PARTS if name in at},
            "last_step_at": round(steps[-1] - submitted, 3),
            "steps_per_second": steady(steps),
        }

    def bare(self, job_id: str) -> dict[str, Any]:
        """The job's own script, run by hand with the same compile caches."""
        with self.bench.client() as client:
            text = client.get(f"/v1/jobs/{job_id}/script").raise_for_status().text
        script = self.folder / "bare.py"
        script.write_text(text)
        caches = compile_caches(self.bench.services.settings, {})
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        # Unsloth takes Inductor's variable away; without it the folder is this one.
        shared = temporary / f"torchinductor_{os.environ.get('USER') or 'root'}"
        if not shared.exists():
            Path(caches["TORCHINDUCTOR_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
            shared.symlink_to(caches["TORCHINDUCTOR_CACHE_DIR"])
        environment = {**os.environ, **caches, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
        command = [sys.executable, str(script), "--model", str(self.model), "--data", str(self.data)]
        began, steps, said = time.time(), [], []
        with subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | {"HF_HUB_OFFLINE": "1"},
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if "'loss'" in line:
                    steps.append(time.time())
        if process.returncode or not steps:
            raise RuntimeError("".join(said)[-3000:])
        return {"first_step_s": round(steps[0] - began, 3), "steps_per_second": steady(steps)}

    def back_to_back(self, engine: str, count: int, steps: int) -> None:
        """Jobs that wait for one another: how long the device has nothing to do between two of them."""
        if count < 2:
            return
        wait_for(lambda: self.ready(engine), 180, 0.2)
        with GpuWatch() as watch:
            submitted, jobs = time.time(), self.submit(engine, count, steps)
            for job_id in jobs:
                self.wait_ended(job_id)
        measured = [self.measure(job_id, submitted) for job_id in jobs]
        gaps = []
        for before, after in pairwise(measured):
            begin, end = before["last_step_at"], after["first_step_s"]
            gaps.append(
                {
                    "last_step_to_loading_s": round(after["at"]["loading_model"] - begin, 3),
                    "last_step_to_first_step_s": round(end - begin, 3),
                    "standby": after["standby"],
                    "timings": after["timings"],
                    "idle_by_driver_s": watch.longest_idle(submitted + begin, submitted + end),
                }
            )
        self.result[engine]["back_to_back"] = gaps
        save("startup", self.result)

    def standbys(self) -> list[dict[str, Any]]:
        """What the worker keeps."""
        path = self.bench.services.settings.home / "standby" / LIST_NAME
        known: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return known

    def ready(self, engine: str) -> bool:
        """Whether a standby of the engine waits."""
        return any(one["engine"] == engine and one["ready"] for one in self.standbys())


def summary(sides: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of both sides, and service against bare."""
    median: Callable[[str, str], float] = lambda side, name: statistics.median(one[name] for one in sides[side])  # noqa: E731
    names = ("first_step_s", "steps_per_second")
    medians = {side: {name: round(median(side, name), 3) for name in names} for side in sides}
    return {
        "median": medians,
        "first_step_ratio": round(medians["service"]["first_step_s"] / medians["bare"]["first_step_s"], 3),
        "speed_ratio": round(medians["service"]["steps_per_second"] / medians["bare"]["steps_per_second"], 4),
    }


def steady(steps: list[float]) -> float:
    """Steps a second once caches are filled, from the moments at which they ended."""
    return round((len(steps) - STEADY_FROM) / (steps[-1] - steps[STEADY_FROM - 1]), 4)


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
