"""What a run does between steps: metrics, checkpoints that are due, and the stop."""

from __future__ import annotations

import resource
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from opensloth.training.checkpoints import Checkpoints, Progress
from opensloth.training.gradient_sync import any_rank
from opensloth.training.pulse import EVALUATING, SAVING, STARTING, STEPS, Pulse
from opensloth.training.rank_trainer import RankTrainer, Signals
from opensloth.training.records import Records
from opensloth.training.run_spec import RunSpec
from opensloth.training.stop import Stop

NOT_METRICS = frozenset({"epoch", "num_tokens", "total_flos", "step"})
KEPT_HISTORY = 20
"""Entries of transformers' log that a checkpoint carries; the whole history is in the events."""


class RunCallback(TrainerCallback):
    """Follows one run on one rank; what all ranks must agree on comes from `RankTrainer.totals`."""

    def __init__(
        self,
        trainer: RankTrainer,
        spec: RunSpec,
        checkpoints: Checkpoints,
        records: Records,
        stop: Stop,
        progress: Progress,
    ) -> None:
        self.trainer, self.spec, self.checkpoints, self.records, self.stop = trainer, spec, checkpoints, records, stop
        self.progress = progress
        self.pulse = Pulse(Path(spec.run_dir))
        self.latest: dict[str, Any] = {}
        """The newest value of every metric."""
        self._resumed_step: int | None = None
        self._step_times: deque[float] = deque(maxlen=50)
        self._window_tokens = self._window_samples = self._window_steps = 0
        self._window_s = self._longest_s = 0.0
        self._mark = self._saved_at = time.monotonic()
        trainer.signals = Signals(stop=lambda: stop.requested, save=self._save_is_due)
        trainer.fetch_best = self._fetch_best
        found = [some for some in trainer.callback_handler.callbacks if isinstance(some, EarlyStoppingCallback)]
        self._early_stopping = found[0] if found else None
        if self._early_stopping is not None:
            self._early_stopping.early_stopping_patience_counter = progress.evaluations_without_gain

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The clock starts with the first step."""
        self._resumed_step = state.global_step
        self._beat(STARTING)  # the first step compiles and fills caches
        self._mark = self._saved_at = time.monotonic()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A part of a step's batch is done."""
        self._beat(STEPS if self._step_times else STARTING)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Counts the step and decides what follows it."""
        self._count_step()
        self._decide(state, control)
        self._beat_for(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """An evaluation or a save may follow."""
        self._beat_for(control)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A batch of an evaluation is done."""
        self._beat(EVALUATING)

    def _decide(self, state: TrainerState, control: TrainerControl) -> None:
        if state.global_step - (self._resumed_step or 0) == 1:
            self.records.mark("first_step")
            self.records.write(
                "started",
                f"training, {state.max_steps} steps",
                step=state.global_step,
                max_steps=state.max_steps,
                resumed_step=self._resumed_step,
                timings=self.records.timings,
            )
        if state.global_step >= state.max_steps:
            return  # complete: what is left to do is the result
        totals = self.trainer.totals
        if totals.stop or (not self.trainer.distributed and self.stop.requested):
            control.should_save = control.should_training_stop = self.trainer.stopped = True
            control.should_evaluate = False
        elif totals.save:
            control.should_save = True
        if control.should_save:
            control.should_log = True  # a resumed run averages its metrics from the checkpoint on

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Writes what transformers and TRL measured, and speed and memory with the training's metrics."""
        measured = {name: value for name, value in (logs or {}).items() if name not in NOT_METRICS}
        metrics = {name: float(value) for name, value in measured.items() if value is not None}
        del state.log_history[:-KEPT_HISTORY]
        if "train_runtime" in metrics:
            self.latest["train_runtime"] = metrics["train_runtime"]
            return
        if "loss" in metrics:
            metrics |= self._speed()
        self.latest |= metrics
        self.records.write(
            "metrics",
            f"step {state.global_step} of {state.max_steps}",
            step=state.global_step,
            max_steps=state.max_steps,
            epoch=state.epoch,
            tokens=self.progress.tokens,
            eta_s=self._eta_s(state),
            metrics=metrics,
        )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """An evaluation is no part of a step's time."""
        self._mark = time.monotonic()
        self._beat(SAVING if control.should_save else STEPS)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Publishes the checkpoint that transformers has just written into the output folder."""
        # Also a barrier: every rank has written its part.
        if any_rank(self.stop.requested, args.device) and state.global_step < state.max_steps:
            control.should_training_stop = self.trainer.stopped = True
        if state.is_world_process_zero:
            local = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if self._early_stopping is not None:
                self.progress.evaluations_without_gain = self._early_stopping.early_stopping_patience_counter
            best = _best_step(state)
            done = self.checkpoints.publish(local, state.global_step, self.progress, best=best)
            self.records.write(
                "checkpoint",
                f"checkpoint after step {state.global_step}",
                step=state.global_step,
                key=done.key,
                bytes=done.bytes,
                save_s=time.monotonic() - self._mark,
                removed=done.removed,
                metrics=self.latest,
            )
        self._beat(STEPS)
        self._mark = self._saved_at = time.monotonic()

    def _beat_for(self, control: TrainerControl) -> None:
        """What follows the step that is done."""
        self._beat(EVALUATING if control.should_evaluate else SAVING if control.should_save else STEPS)

    def _beat(self, doing: str) -> None:
        if self.trainer.is_world_process_zero():
            self.pulse.beat(doing, median(self._step_times) if self._step_times else 0.0)

    def _fetch_best(self, name: str) -> Path:
        """The folder of a published checkpoint; every rank waits until rank 0 has copied it."""
        step = int(name.rpartition("-")[2])
        local = Path(self.spec.run_dir) / "best" / f"checkpoint-{step}"
        if self.trainer.is_world_process_zero() and not local.exists():
            self.checkpoints.fetch(step, local)
        any_rank(False, self.trainer.args.device)
        return local

    def _save_is_due(self) -> bool:
        """By rank 0's clock; the other ranks learn of it with the step."""
        interval = self.spec.checkpoint_interval_s
        return bool(self.trainer.is_world_process_zero()) and time.monotonic() - self._saved_at >= interval

    def _count_step(self) -> None:
        now = time.monotonic()
        elapsed, self._mark = now - self._mark, now
        self._step_times.append(elapsed)
        self._window_s += elapsed
        self._window_steps += 1
        self._longest_s = max(self._longest_s, elapsed)
        totals = self.trainer.totals
        self._window_tokens += totals.tokens
        self._window_samples += totals.samples
        self.progress.tokens += totals.tokens
        self.progress.samples += totals.samples

    def _speed(self) -> dict[str, float]:
        seconds = max(self._window_s, 1e-9)
        speed = {
            "tokens_per_second": self._window_tokens / seconds,
            "samples_per_second": self._window_samples / seconds,
            "step_time_s": seconds / max(self._window_steps, 1),
            "longest_step_s": self._longest_s,
            "memory_peak_bytes": float(memory_peak_bytes(self.spec.device)),
        }
        self._window_tokens = self._window_samples = self._window_steps = 0
        self._window_s = 0.0
        return speed

    def _eta_s(self, state: TrainerState) -> float | None:
        # The first step of a process warms up caches and says little about the others.
        times = list(self._step_times)[1:] or list(self._step_times)
        if not times:
            return None
        return (state.max_steps - state.global_step) * sum(times) / len(times)


def _best_step(state: TrainerState) -> int | None:
    """The step of the checkpoint that has done best in an evaluation."""
    name = state.best_model_checkpoint
    return int(name.rpartition("-")[2]) if name else None


def memory_peak_bytes(device: str) -> int:
    """Most memory so far: PyTorch's on the GPU, the process's on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
