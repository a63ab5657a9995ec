"""The part of `resolve` that knows whose weights can be trained in shards, a part of each on every device (FSDP2)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from opensloth.errors import InvalidInput
from opensloth.resolve_draft import Draft, invalid

if TYPE_CHECKING:
    from opensloth.resolve import Resolved

SHARDS = "opensloth_config.shard_weights"
OPTIMIZER = "training_args.optim"
ELEMENTWISE = frozenset({"adamw_torch", "adamw_torch_fused", "adagrad", "rmsprop", "sgd"})
"""Optimizers that step a shard as they step the whole."""
_SMALL_ADAMW = frozenset({"adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit"})
_HELD_WHOLE = "each device holds the whole model"


def why_not_sharded(training_type: str, engine: str, *, full: bool) -> str | None:
    """What forbids `shard_weights`, and what to do; None where nothing does."""
    if not full:
        return "only full fine-tuning is sharded: an adapter's base is held whole, in 4 bits if need be; leave it out"
    if engine == "unsloth":
        return 'Unsloth does not train in shards; use engine "transformers", or leave it out'
    if training_type != "sft":
        return f"only sft is sharded; {training_type} needs each device to hold the whole model; leave it out"
    return None


def fit_sharding(draft: Draft, engine: str, device: str, devices: int) -> None:
    """Whole where nothing else is asked for; in shards, an optimizer that can. Raises InvalidInput."""
    if not draft.config.shard_weights:
        draft.put(SHARDS, False, _HELD_WHOLE)
        return
    config = draft.config
    obstacle = why_not_sharded(config.training_type, engine, full=config.fast_model_args.full_finetuning)
    if obstacle is not None:
        raise invalid(SHARDS, obstacle, "contradiction")
    if devices == 1:
        draft.put(SHARDS, False, "there is one device")
        return
    if draft.training_args.fp16:
        raise invalid(SHARDS, "in float16 training is not sharded; use bf16, or leave it out", "contradiction")
    _fit_optimizer(draft, device)


def with_sharding(resolved: Resolved, reason: str) -> Resolved | None:
    """The same training in shards; None where the user decided otherwise or it cannot be."""
    if resolved.why.get(SHARDS) != _HELD_WHOLE:
        return None
    draft = Draft(resolved.opensloth_config, resolved.training_args)
    draft.why = dict(resolved.why)
    draft.put(SHARDS, True, reason)
    try:
        fit_sharding(draft, resolved.engine, resolved.device, devices=2)
    except InvalidInput:
        return None
    return replace(resolved, opensloth_config=draft.config, training_args=draft.training_args, why=draft.why)


def _fit_optimizer(draft: Draft, device: str) -> None:
    optimizer = str(draft.training_args.optim)
    if optimizer in ELEMENTWISE:
        return
    if optimizer not in _SMALL_ADAMW:
        known = ", ".join(sorted(ELEMENTWISE))
        raise invalid(OPTIMIZER, f"{optimizer} cannot step shards; use one of {known}", "optimizer_unavailable")
    sharded = "adamw_torch_fused" if device == "cuda" else "adamw_torch"
    draft.put(OPTIMIZER, sharded, f"{optimizer} cannot step shards; the same with 32-bit states, a part on each device")
