"""A trainer without a model: the real protocol, at any speed, with the faults that the job's name asks for.

The name is words like `steps=20 step_s=0.05 save=5 kill@7 nan@3 deaf`: `kill@7` kills itself after step 7 in the first
attempt, `kill_always@7` in each, `nan@3` fails with nan_loss, `deaf` ignores SIGTERM. `hang@7` stands still before step
7 in the first attempt, `save_s=3` saves for 3 s, `kill_worker@3` kills the worker that started it, in each attempt.
`claim=4` holds 4 GiB of the fake GPU from the start and `grow=9` 9 GiB from step 3, `eat=300` takes 300 MiB of the
host's memory, `daemon` starts a process that stays, in a session of its own, `bad_gpu=NAME` fails with device_error
wherever it gets that GPU, `oom@3` runs out of GPU memory, `oom_above=50` does once more than 50 GiB of its GPU are
used. `fat=100` makes checkpoints of 100 KiB. What goes wrong with a disk is told as the real one tells it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from opensloth.storage import Storage
from opensloth.training.failures import describe
from opensloth.training.pulse import SAVING, STEPS, Pulse
from opensloth.training.records import Records
from opensloth.training.run_spec import EVENTS_NAME, RunSpec, checkpoint_name, read_spec
from opensloth.training.stacks import answer_with_stacks
from opensloth.training.watchdog import start_watchdog
from tests.support import fake_nvml

EXIT_STOPPED, EXIT_FAILED = 10, 20


class Behaviour:
    """What the words of a job's name ask for."""

    def __init__(self, name: str) -> None:
        self.words = dict(word.partition("=")[::2] for word in name.split())
        self.steps = int(self.words.get("steps") or 5)
        self.step_s = float(self.words.get("step_s") or 0.02)
        self.save = int(self.words.get("save") or 0)
        self.fat = int(self.words.get("fat") or 0)
        self.save_s = float(self.words.get("save_s") or 0.0)

    def at(self, word: str, step: int) -> bool:
        return f"{word}@{step}" in self.words


def main() -> None:
    start_watchdog()
    answer_with_stacks(Path(sys.argv[1]))
    run = read_spec(Path(sys.argv[1]))
    behaviour = Behaviour(run.job_name)
    stop: list[int] = []
    if "deaf" in behaviour.words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    if int(os.environ["RANK"]) != 0:
        time.sleep(behaviour.steps * behaviour.step_s)
        sys.exit(0)
    records = Records(Path(run.run_dir) / EVENTS_NAME)
    try:
        train(run, behaviour, stop, records)
    except OSError as error:
        failure = describe(error, records.current_phase)
        records.write("failure", failure.message, local_rank=0, **asdict(failure))
        sys.exit(EXIT_FAILED)


def warm_up(engine: str) -> None:
    """A standby of it has nothing to import."""


def train(run: RunSpec, behaviour: Behaviour, stop: list[int], records: Records) -> None:
    storage = Storage(run.storage_url)
    pulse = Pulse(Path(run.run_dir))
    records.phase("training", "training")
    first = run.resumed_step + 1
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    if "claim" in behaviour.words:
        fake_nvml.claim(gpu, int(behaviour.words["claim"]) << 30)
    if "daemon" in behaviour.words:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    eaten = b"x" * (int(behaviour.words.get("eat") or 0) << 20)
    for step in range(first, behaviour.steps + 1):
        if behaviour.at("hang", step) and run.attempt == 1:
            stand_still()
        time.sleep(behaviour.step_s)
        pulse.beat(STEPS, behaviour.step_s)
        if step == first:
            records.write("started", "started", step=step, max_steps=behaviour.steps, resumed_step=run.resumed_step)
        metrics = {"loss": 1.0 / step, "step_time_s": behaviour.step_s}
        records.write(
            "metrics",
            f"step {step}",
            step=step,
            max_steps=behaviour.steps,
            epoch=1.0,
            tokens=step * 10,
            eta_s=(behaviour.steps - step) * behaviour.step_s,
            metrics=metrics,
        )
        if "grow" in behaviour.words and step == first + 2:
            fake_nvml.claim(gpu, int(behaviour.words["grow"]) << 30)
        if behaviour.at("nan", step):
            fail(records, "nan_loss")
        if "oom_above" in behaviour.words and fake_nvml.used(gpu) > int(behaviour.words["oom_above"]) << 30:
            fail(records, "cuda_oom")
        if gpu and behaviour.words.get("bad_gpu") == gpu:
            fail(records, "device_error")
        if (behaviour.at("kill", step) and run.attempt == 1) or behaviour.at("kill_always", step):
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour.at("kill_worker", step):
            os.kill(os.getppid(), signal.SIGKILL)
        saves = behaviour.save and step % behaviour.save == 0
        if saves or stop:
            pulse.beat(SAVING)
            time.sleep(behaviour.save_s)
        if stop and step < behaviour.steps:
            checkpoint(run, storage, records, step, behaviour.fat)
            records.write("stopped", "stopped", step=step, complete=False)
            sys.exit(EXIT_STOPPED)
        if saves:
            checkpoint(run, storage, records, step, behaviour.fat)
    del eaten
    folder = Path(run.run_dir) / "result"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}')
    files = storage.put_tree(folder, run.artifact_key, move=True)
    artifacts = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
    records.write("result", "done", key=run.artifact_key, artifacts=artifacts, base=run.base_name, metrics={})


def stand_still() -> NoReturn:
    """As a rank that waits for a peer which never answers."""
    while True:
        time.sleep(3600)


def fail(records: Records, code: str) -> NoReturn:
    records.write("failure", "failure", code=code, message=f"asked for: {code}", hint=None, detail=None, local_rank=0)
    sys.exit(EXIT_FAILED)


def checkpoint(run: RunSpec, storage: Storage, records: Records, step: int, fat: int = 0) -> None:
    folder = Path(run.run_dir) / checkpoint_name(step)
    folder.mkdir()
    (folder / "state").write_text(str(step))
    (folder / "fat").write_bytes(os.urandom(fat << 10))
    key = f"{run.checkpoint_key}/{checkpoint_name(step)}"
    files = storage.put_tree(folder, key, move=True)
    size = sum(file.bytes for file in files)
    records.write("checkpoint", f"checkpoint {step}", step=step, key=key, bytes=size, save_s=0.01, metrics={})


if __name__ == "__main__":
    main()
