"""Full fine-tuning of what does not fit one device: each rank holds a part of all weights, gradients and states.

PyTorch's FSDP2 itself, not accelerate's plugin for it: see docs/decisions/0012-own-sharding.md. A checkpoint holds the
whole model as transformers loads it, and of the optimizer's states one file a rank.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer

from opensloth.resolve import Resolved
from opensloth.resolve_draft import invalid
from opensloth.resolve_sharding import SHARDS

SCHEDULER = "scheduler.pt"


def shard(model: Any, resolved: Resolved) -> None:
    """Leaves each rank its part of `model`, which all of them have loaded on the host, on its own device, in float32.

    Layers are gathered one at a time, in bfloat16 where that is trained in; gradients are averaged in float32. Raises
    InvalidInput for a model whose layers are not known.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise invalid(SHARDS, f"the layers of a {type(model).__name__} are not known, so that it cannot be sharded")
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options = {
        "mesh": init_device_mesh(resolved.device, (dist.get_world_size(),)),
        "mp_policy": mixed if resolved.training_args.bf16 else MixedPrecisionPolicy(),
    }
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    units = layers if outputs is None or inputs.weight is outputs.weight else [*layers, inputs]
    for unit in units:
        fully_shard(unit, **options)
    # With it goes the output layer: the SFT loss takes its weight without calling it, while the model is called.
    fully_shard(model, **options)
    model.float()  # only now: a part is converted, not the whole
    model._is_accelerate_prepared = True  # or accelerate would wrap it into DDP


class ShardedTrainer(Trainer):
    """A mixin before transformers' Trainer that saves and loads what is spread over the ranks."""

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of the model."""
        return isinstance(self.model, FSDPModule)

    def whole_weights(self) -> dict[str, Any] | None:
        """All weights in rank 0's memory, nothing on other ranks; None where each has the whole model. All must ask."""
        if not self.sharded:
            return None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return dict(get_model_state_dict(self.model, options=options))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As transformers' own, with weights that are gathered first."""
        weights = self.whole_weights()
        if weights is None:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        os.makedirs(output_dir, exist_ok=True)
        torch.save(self.optimizer.state_dict(), self._own_states(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        self.optimizer.load_state_dict(torch.load(self._own_states(checkpoint), weights_only=True))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        weights: dict[str, Any] = {}
        if dist.get_rank() == 0:
            for file in sorted(Path(resume_from_checkpoint).glob("*.safetensors")):
                weights |= load_file(file)
        # Not strict: of tied weights one name is saved.
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(self.model, weights, options=options)

    def _load_best_model(self) -> None:
        if self.sharded:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _own_states(self, folder: str) -> Path:
        return Path(folder) / f"optimizer_{self.args.process_index}.pt"


def whole_number(value: Any) -> Any:
    """A number that all ranks share, as a tensor of its own."""
    return value.full_tensor() if isinstance(value, DTensor) else value
