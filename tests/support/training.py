"""Real trainer processes for tests: forked from a server that has done the slow imports once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, resolve
from opensloth.training.run_spec import DatasetRef, RunSpec

CPU = DeviceFacts(kind="cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False)


def sft_rows(count: int) -> list[dict[str, Any]]:
    """Conversations of two turns and different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Say {i}"},
                {"role": "assistant", "content": f"{i} " * (i % 5 + 1) + "."},
                {"role": "user", "content": "More"},
                {"role": "assistant", "content": "yes " * (i % 3 + 1) + "!"},
            ]
        }
        for i in range(count)
    ]


def dpo_rows(count: int) -> list[dict[str, Any]]:
    """Preferences of different lengths."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Say {i}"}],
            "chosen": [{"role": "assistant", "content": f"{i} ok " * (i % 4 + 1)}],
            "rejected": [{"role": "assistant", "content": f"no {i} " * (i % 3 + 1)}],
        }
        for i in range(count)
    ]


def kto_rows(count: int) -> list[dict[str, Any]]:
    """Answers of different lengths, two of three of them wanted."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Say {i}"}],
            "completion": [{"role": "assistant", "content": ("no " if i % 3 == 0 else f"{i} ok ") * (i % 4 + 1)}],
            "label": i % 3 != 0,
        }
        for i in range(count)
    ]


def grpo_rows(count: int) -> list[dict[str, Any]]:
    """Prompts with what should be answered."""
    return [{"prompt": [{"role": "user", "content": f"Say {i}"}], "answer": str(i)} for i in range(count)]


ROWS = {"sft": sft_rows, "dpo": dpo_rows, "kto": kto_rows, "orpo": dpo_rows, "grpo": grpo_rows}


def make_run(
    folder: Path,
    model: Path,
    training_type: str = "sft",
    *,
    name: str = "run",
    rows: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    arguments: dict[str, Any] | None = None,
    **spec: Any,
) -> RunSpec:
    """A run folder with its `run.json`; `folder` also holds the data and the storage, so that runs share them."""
    rows = rows if rows is not None else ROWS[training_type](24)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    digest = hashlib.sha256(content).hexdigest()
    data = folder / f"{digest[:8]}.jsonl"
    data.write_bytes(content)
    config = {"training_type": training_type, **(config or {})}
    config["fast_model_args"] = {"model_name": "tiny", "max_seq_length": 128, **config.get("fast_model_args", {})}
    chosen = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
    chosen |= {"num_train_epochs": 2, "warmup_steps": 2, **(arguments or {})}
    shape = json.loads((Path(spec["adapter"]) / "adapter_config.json").read_text()) if spec.get("adapter") else None
    resolved = resolve(OpenSlothConfig(**config), TrainingArguments(**chosen), CPU, adapter_lora=shape)
    run_dir = folder / name
    run_dir.mkdir(parents=True)
    made = RunSpec(
        **{
            "job_id": "ftjob-test",
            "job_name": "a test",
            "attempt": 1,
            "opensloth_config": resolved.opensloth_config,
            "training_args": resolved.training_args,
            "engine": "transformers",
            "device": "cpu",
            "model": str(model),
            "base_name": "tiny",
            "dataset": DatasetRef(path=str(data), name="data.jsonl", sha256=digest, container="jsonl"),
            "run_dir": str(run_dir),
            "storage_url": str(folder / "storage"),
            "checkpoint_key": f"jobs/{name}/checkpoints/attempt-1",
            "artifact_key": f"jobs/{name}/artifacts",
            **spec,
        }
    )
    (run_dir / "run.json").write_text(made.model_dump_json())
    return made


def next_attempt(spec: RunSpec, step: int) -> RunSpec:
    """The attempt after `spec`, on an empty folder, from the checkpoint after `step`."""
    run_dir = Path(f"{spec.run_dir}-{spec.attempt + 1}")
    run_dir.mkdir()
    again = spec.model_copy(
        update={
            "attempt": spec.attempt + 1,
            "run_dir": str(run_dir),
            "resume_from": f"{spec.checkpoint_key}/step-{step:08d}",
            "checkpoints": [saved["key"] for saved in reversed(records(spec, "checkpoint"))],
            "checkpoint_key": f"{spec.checkpoint_key.rpartition('-')[0]}-{spec.attempt + 1}",
        }
    )
    (run_dir / "run.json").write_text(again.model_dump_json())
    shutil.rmtree(Path(spec.run_dir) / "output", ignore_errors=True)
    return again


def records(spec: RunSpec, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a run, or the `data` of those of one kind."""
    lines = (Path(spec.run_dir) / "events.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return found if kind is None else [record["data"] for record in found if record["type"] == kind]


def curve(*specs: RunSpec) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm by step; of a step that several attempts trained, the last."""
    points = {}
    for spec in specs:
        for record in records(spec, "metrics"):
            if "loss" in record["metrics"]:
                points[record["step"]] = (record["metrics"]["loss"], record["metrics"]["grad_norm"])
    return points


@dataclass(frozen=True)
class Signal:
    """Sends the trainer a signal at an exact moment: after step `step`, or as phase `phase` begins.

    `writing`: in the middle of the files of the checkpoint after so many steps; `storing`: as they go to storage.
    """

    number: int
    step: int | None = None
    phase: str | None = None
    writing: int | None = None
    storing: int | None = None


@dataclass
class TrainerHost:
    """Starts trainer processes quickly; each is a fork of one process that has imported torch, TRL and PEFT."""

    _context: Any = field(init=False)

    def __post_init__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.support.trainer_imports"])

    def start(self, spec: RunSpec, rank: int = 0, signal: Signal | None = None) -> Any:
        """A running rank of `spec`; its output goes to `trainer.log` in the run's folder."""
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(spec.world_size)}
        process = self._context.Process(target=_trainer, args=(spec.run_dir, environment, signal))
        process.start()
        return process

    def call(self, function: Any, *arguments: Any) -> Any:
        """A running process that calls `function`."""
        process = self._context.Process(target=function, args=arguments)
        process.start()
        return process

    def run(self, spec: RunSpec, signal: Signal | None = None, timeout_s: float = 400) -> int:
        """Runs all ranks to their end; returns the exit code of rank 0 (negative for a signal)."""
        processes = [self.start(spec, rank, signal) for rank in range(spec.world_size)]
        for process in processes:
            process.join(timeout_s)
            assert process.exitcode is not None, log(spec)
        return int(processes[0].exitcode)


def log(spec: RunSpec) -> str:
    """What the ranks of a run printed."""
    return (Path(spec.run_dir) / "trainer.log").read_text()


def _trainer(run_dir: str, environment: dict[str, str], signal: Signal | None) -> None:
    import sys

    output = os.open(f"{run_dir}/trainer.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= environment
    sys.argv = ["main", run_dir]
    from opensloth.training import main

    if signal is not None:
        _send_itself(signal)
    main.main()


def _send_itself(signal: Signal) -> None:
    from opensloth.training import callbacks, records

    if signal.writing is not None or signal.storing is not None:
        _die_while_saving(signal)
    elif signal.step is not None:
        step_end = callbacks.RunCallback.on_log

        def on_log(self: Any, args: Any, state: Any, control: Any, **others: Any) -> None:
            step_end(self, args, state, control, **others)
            if state.global_step == signal.step:
                os.kill(os.getpid(), signal.number)

        callbacks.RunCallback.on_log = on_log  # type: ignore[method-assign]
    else:
        phase = records.Records.phase

        def on_phase(self: Any, name: str, message: str) -> None:
            phase(self, name, message)
            if name == signal.phase:
                os.kill(os.getpid(), signal.number)

        records.Records.phase = on_phase  # type: ignore[method-assign]


def _die_while_saving(signal: Signal) -> None:
    import torch

    from opensloth.storage import folder
    from opensloth.training import callbacks

    step = 0
    step_end = callbacks.RunCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **others: Any) -> None:
        nonlocal step
        step = state.global_step
        step_end(self, args, state, control, **others)

    def die_first(moment: int | None, real: Any) -> Any:
        def call(*arguments: Any, **others: Any) -> Any:
            done = real(*arguments, **others)
            if step == moment:
                os.kill(os.getpid(), signal.number)
            return done

        return call

    callbacks.RunCallback.on_step_end = on_step_end  # type: ignore[method-assign]
    torch.save = die_first(signal.writing, torch.save)
    folder.fsync_path = die_first(signal.storing, folder.fsync_path)  # type: ignore[attr-defined]
