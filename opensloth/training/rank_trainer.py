"""What every trainer of ours does beside TRL's: steps in which all ranks agree, and resume with every adapter."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from opensloth.datasets.prepared import DataCounts
from opensloth.training.gradient_sync import any_rank, average_gradients, sum_over_ranks
from opensloth.training.sharding import ShardedTrainer, whole_number

ADAPTER_FILE = "adapter_model.safetensors"


class NonFiniteTraining(Exception):
    """The loss or the gradient became NaN or infinite."""

    def __init__(self, step: int, loss: float, grad_norm: float) -> None:
        self.step, self.loss, self.grad_norm = step, loss, grad_norm
        what = "the gradient" if math.isfinite(loss) else "the loss"
        super().__init__(f"{what} is not finite at step {step} (loss {loss}, gradient norm {grad_norm})")


class EvaluationStopped(Exception):
    """All ranks left an evaluation because a stop was asked for."""


@dataclass(frozen=True)
class StepTotals:
    """One optimizer step over all ranks; `stop` and `save` are what some rank asked for."""

    loss: float = 0.0
    tokens: int = 0
    samples: int = 0
    stop: bool = False
    save: bool = False


@dataclass
class Signals:
    """What the process around the trainer may ask for between steps."""

    stop: Callable[[], bool] = lambda: False
    save: Callable[[], bool] = lambda: False


class RankTrainer(ShardedTrainer):
    """A mixin before a TRL trainer: gradients averaged once a step, NaN found before the weights change.

    `totals` is the last step over all ranks. Raises NonFiniteTraining on all ranks together.
    """

    signals = Signals()
    totals = StepTotals()
    stopped = False
    """Whether training ended because some rank was asked to stop, not because it was complete."""
    fetch_best: Callable[[str], Path] | None = None
    """Where a checkpoint of that name is to be had from, if it is moved away as soon as it is written."""
    data_counts: list[DataCounts]
    _loss: torch.Tensor | float = 0.0
    _tokens: torch.Tensor | int = 0
    _samples: torch.Tensor | int = 0

    @property
    def distributed(self) -> bool:
        """Whether there are other ranks."""
        return bool(self.accelerator.num_processes > 1)

    @property
    def last_rows(self) -> int:
        """Rows of an epoch's last batch on all ranks where some were repeated to fill it, else 0.

        accelerate's own `remainder` is not known in an epoch that a resume goes on with.
        """
        if self.args.dataloader_drop_last:
            return 0
        return int(len(self.train_dataset) % (self.args.train_batch_size * self.accelerator.num_processes))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass; DDP does not reduce, `_get_grad_norm` does."""
        alone = self.accelerator.no_sync(model) if self.distributed else contextlib.nullcontext()
        with alone:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._loss = self._loss + loss.detach()
        return loss

    def _prepare_inputs(self, inputs: Any) -> Any:
        inputs = super()._prepare_inputs(inputs)
        tokens, samples = self.count(inputs)
        if self.model.training:
            self._tokens = self._tokens + tokens
            self._samples = self._samples + samples
        return inputs

    def count(self, inputs: Any) -> tuple[torch.Tensor, torch.Tensor | int]:
        """Tokens, padding left out, and samples of a batch; what only says so is taken out of it."""
        tokens, samples = inputs.pop("num_tokens", None), inputs.pop("num_samples", None)
        if tokens is not None and samples is not None:
            return tokens.sum(), samples.sum()
        pairs = 2 if "completion_mask" in inputs and "labels" not in inputs else 1
        return inputs["attention_mask"].sum(), len(inputs["input_ids"]) // pairs

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.distributed and not self.sharded:  # shards were averaged as they came
            average_gradients(model.parameters())
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None and self.distributed and not self.sharded:  # nothing is clipped, so nothing was averaged
            average_gradients(model.parameters())
        grad_norm = whole_number(super()._get_grad_norm(model, grad_norm=grad_norm))
        self._finish_step(grad_norm)
        return grad_norm

    def _finish_step(self, grad_norm: Any) -> None:
        """Adds the step up over all ranks, in one exchange and one read from the device."""
        signals = self.signals
        numbers = [self._loss, self._tokens, self._samples, float(signals.stop()), float(signals.save())]
        device = self.args.device
        values = torch.stack([torch.as_tensor(n, dtype=torch.float32, device=device).detach() for n in numbers])
        if self.distributed:
            values = sum_over_ranks(values)
        loss, tokens, samples, stop, save, norm = torch.cat(
            [values, torch.as_tensor(grad_norm, dtype=torch.float32, device=device).detach().reshape(1)]
        ).tolist()
        loss /= self.accelerator.num_processes
        self._loss, self._tokens, self._samples = 0.0, 0, 0
        self.totals = StepTotals(loss, round(tokens), round(samples), bool(stop), bool(save))
        # With a scaler (fp16) an infinite gradient is usual: the step is skipped and the scale lowered.
        scaled = self.accelerator.scaler is not None
        if not math.isfinite(loss) or not (math.isfinite(norm) or scaled):
            raise NonFiniteTraining(self.state.global_step + 1, loss, norm)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """One batch of an evaluation, which may be long: a stop ends it on all ranks."""
        if self.is_in_train and any_rank(self.signals.stop(), self.args.device):
            raise EvaluationStopped
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._evaluate(*args, **kwargs)
        except EvaluationStopped:
            self.model.train()
            self.control.should_evaluate = False
            self.control.should_save = self.control.should_training_stop = self.stopped = True
            return {}

    def _run_epoch(self, model: Any, epoch: int, train_dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """One epoch; the sampler is told which, wherever it is: past the first one, a resume would not reach it."""
        sampler = train_dataloader
        while getattr(sampler, "batch_sampler", None) is not None:
            sampler = sampler.batch_sampler
        if hasattr(getattr(sampler, "sampler", None), "set_epoch"):
            sampler.sampler.set_epoch(epoch)
        return super()._run_epoch(model, epoch, train_dataloader, *args, **kwargs)

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        return bool(metrics) and bool(super()._determine_best_metric(metrics, trial))

    def _load_best_model(self) -> None:
        if self.fetch_best is not None:
            self.state.best_model_checkpoint = str(self.fetch_best(Path(self.state.best_model_checkpoint).name))
        super()._load_best_model()

    def load_finished(self, checkpoint: str) -> None:
        """Takes up a run after its last step: its state, and its last weights or its best."""
        self.state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        self._load_from_checkpoint(checkpoint)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Loads every adapter: beside sub-folders, transformers leaves the one at the root out, which is trained."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        model = model or self.model
        subfolders = [entry for entry in os.scandir(resume_from_checkpoint) if entry.is_dir()]
        if hasattr(model, "load_adapter") and any(os.path.exists(f"{sub.path}/{ADAPTER_FILE}") for sub in subfolders):
            active = model.active_adapters[0]
            model.load_adapter(resume_from_checkpoint, active, is_trainable=True)
            model.set_adapter(active)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.distributed or self.sharded or self.args.device.type != "cpu":
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # accelerate calls a rank's CPU "cpu:0", where torch cannot load to.
        for name, owner in (("optimizer.pt", self.optimizer), ("scheduler.pt", self.lr_scheduler)):
            owner.load_state_dict(torch.load(os.path.join(checkpoint, name), map_location="cpu", weights_only=True))
