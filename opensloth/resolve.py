"""One pure function that fills what a user did not set and fits the rest to the engine and the device.

Three layers, in this order: what the user set, the method's default, the class's default. Then the device:

- what only saves memory or time (4- and 8-bit weights, 8-bit optimizers, mixed precision, checkpointing of
  activations, packing) falls back to what the device can do, and `why` says so, even where the user set it: the same
  script runs on a laptop and on the GPU box;
- what decides how training is done (engine, method, the LoRA shape of an adapter that is gone on from, an optimizer
  with no equivalent) is an InvalidInput.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from opensloth.errors import FieldError, InvalidInput
from opensloth.methods import get_method
from opensloth.opensloth_config import LoraArgs, OpenSlothConfig, TrainingArguments
from opensloth.resolve_draft import Draft, invalid
from opensloth.resolve_method import (
    fill_method_defaults,
    fill_parts,
    fit_best,
    fit_groups,
    fit_lengths,
    fit_method,
)
from opensloth.resolve_sharding import fit_sharding
from opensloth.resolve_size import DataSize, fit_size

if TYPE_CHECKING:
    from opensloth.rewards.spec import RewardPolicy

Engine = Literal["transformers", "unsloth"]

# Optimizers that need bitsandbytes on a GPU, and what does the same with 32-bit states.
BITSANDBYTES_OPTIMIZERS: dict[str, str | None] = {
    "adamw_8bit": "adamw_torch",
    "adamw_bnb_8bit": "adamw_torch",
    "paged_adamw_8bit": "adamw_torch",
    "paged_adamw_32bit": "adamw_torch",
    "rmsprop_bnb": "rmsprop",
    "rmsprop_bnb_8bit": "rmsprop",
    "rmsprop_bnb_32bit": "rmsprop",
    "lion_8bit": None,
    "lion_32bit": None,
    "paged_lion_8bit": None,
    "paged_lion_32bit": None,
    "ademamix": None,
    "ademamix_8bit": None,
    "paged_ademamix_32bit": None,
    "paged_ademamix_8bit": None,
}


_KEEPS = "opensloth_config.fast_model_args.use_gradient_checkpointing"
_SAVES_MEMORY = "saves memory, where it is not known that there is enough"


@dataclass(frozen=True)
class DeviceFacts:
    """What a host's devices can do; `count` is the number of devices of one job."""

    kind: Literal["cpu", "cuda"]
    bf16: bool
    has_unsloth: bool
    has_bitsandbytes: bool
    count: int = 1


@dataclass(frozen=True)
class Resolved:
    """A config in which nothing is open, and for each field that was decided here the reason, by dotted path."""

    opensloth_config: OpenSlothConfig
    training_args: TrainingArguments
    engine: Engine
    device: Literal["cpu", "cuda"]
    why: dict[str, str]
    reward_policy: RewardPolicy | None = None
    """What a server lets rewards use; a script may use whatever it names."""

    def to_json(self) -> dict[str, Any]:
        """What a job shows as `resolved`; fields that mean nothing to a job are left out."""
        return {
            "opensloth_config": self.opensloth_config.model_dump(mode="json", exclude={"data_cache_path", "devices"}),
            "training_args": self.training_args.model_dump(
                mode="json", exclude_none=True, exclude={"output_dir", "resume_from_checkpoint", "report_to"}
            ),
            "engine": self.engine,
            "device": self.device,
            "why": self.why,
        }


def resolve(
    config: OpenSlothConfig,
    training_args: TrainingArguments,
    device: DeviceFacts,
    *,
    adapter_lora: dict[str, Any] | None = None,
    has_eval_dataset: bool = False,
    data: DataSize | None = None,
) -> Resolved:
    """Fill and fit `config` and `training_args`; neither is changed.

    `adapter_lora` is the `adapter_config.json` of the adapter that training goes on from, if it does; `data` is the
    size of what is trained on, where it is known. Resolving what was resolved on the same device changes nothing.
    Raises InvalidInput with the field at fault.
    """
    method = get_method(config.training_type)
    if training_args.use_cpu:
        device = replace(device, kind="cpu")
    draft = Draft(config, training_args)
    fill_parts(draft, method)
    engine = _choose_engine(draft, device)
    fill_method_defaults(draft, method)
    _fit_lora(draft, adapter_lora)
    fit_lengths(draft, method)
    fit_method(draft, method, device.count)
    if data is not None:
        fit_size(draft, method, data, device.count)
    _fit_weights(draft, device, engine)
    _fit_precision(draft, device)
    _fit_optimizer(draft, device)
    fit_sharding(draft, engine, device.kind, device.count)
    _fit_checkpointing(draft, device, engine)
    _fit_schedule(draft, has_eval_dataset or draft.config.eval_split is not None)
    fit_best(draft, method)
    fit_groups(draft, method, device.count)
    return Resolved(draft.config, draft.training_args, engine, device.kind, dict(draft.why))


def _choose_engine(draft: Draft, device: DeviceFacts) -> Engine:
    path, wanted = "opensloth_config.engine", draft.config.engine
    if wanted == "transformers":
        return "transformers"
    if wanted == "unsloth":
        if not device.has_unsloth:
            message = 'Unsloth is not installed where this would run; use "auto" or "transformers"'
            raise invalid(path, message, "engine_unavailable")
        return "unsloth"
    cuda = "auto: faster on CUDA where activations are kept, as measured (docs/performance.md)"
    draft.put(path, "transformers", cuda if device.kind == "cuda" else "auto: there is no CUDA device")
    return "transformers"


def _fit_lora(draft: Draft, adapter_lora: dict[str, Any] | None) -> None:
    base = "opensloth_config.lora_args"
    if adapter_lora is not None:
        _hold_adapter_shape(draft, adapter_lora)
    elif draft.config.lora_args is not None and not draft.is_set(f"{base}.lora_alpha"):
        draft.put(f"{base}.lora_alpha", draft.config.lora_args.r, "follows r")


def _hold_adapter_shape(draft: Draft, adapter: dict[str, Any]) -> None:
    if draft.config.fast_model_args.full_finetuning:
        message = "the model is a LoRA adapter, which full fine-tuning cannot go on from; start from its base model"
        raise invalid("opensloth_config.fast_model_args.full_finetuning", message)
    errors = []
    for name, field in LoraArgs.model_fields.items():
        path = f"opensloth_config.lora_args.{name}"
        recorded = adapter.get(name)
        held = field.get_default(call_default_factory=True) if recorded is None else recorded
        if isinstance(held, set | tuple | list):
            held = sorted(held)
        given = draft.get(path)
        if name in draft.explicit_lora and (sorted(given) if isinstance(given, list) else given) != held:
            message = f"training goes on from an adapter whose {name} is {held!r}; leave it out"
            errors.append(FieldError(path, message, "held_by_adapter"))
        elif recorded is not None:
            draft.put(path, held, "held by the adapter that training goes on from")
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)


def _fit_weights(draft: Draft, device: DeviceFacts, engine: Engine) -> None:
    base, args = "opensloth_config.fast_model_args", draft.config.fast_model_args
    if args.load_in_8bit and args.load_in_4bit:
        if draft.is_set(f"{base}.load_in_4bit"):
            raise invalid(f"{base}.load_in_8bit", "load_in_4bit is on as well; choose one")
        draft.put(f"{base}.load_in_4bit", False, "load_in_8bit is on")
    reason = None
    if args.full_finetuning:
        reason = "full fine-tuning trains the weights themselves, in 16 or 32 bits"
    elif device.kind == "cpu":
        reason = "on a CPU the base weights stay in 16 or 32 bits"
    elif not device.has_bitsandbytes:
        reason = "bitsandbytes is not installed, the base weights stay in 16 bits"
    for name in ("load_in_4bit", "load_in_8bit"):
        if reason is not None and draft.get(f"{base}.{name}"):
            draft.put(f"{base}.{name}", False, reason)


def _fit_precision(draft: Draft, device: DeviceFacts) -> None:
    bf16, fp16, use_cpu = "training_args.bf16", "training_args.fp16", "training_args.use_cpu"
    args = draft.training_args
    if args.bf16 and args.fp16:
        raise invalid(fp16, "bf16 is on as well; choose one")
    if device.kind == "cpu":
        draft.put(use_cpu, True, "there is no CUDA device")
        if args.fp16:
            draft.put(fp16, False, "a CPU does not train in float16; it trains in float32")
        if args.bf16 is None:
            draft.put(bf16, False, "a CPU trains in float32")
    elif args.bf16 and not device.bf16:
        draft.put(bf16, False, "this GPU has no bfloat16; it trains in float16")
        draft.put(fp16, True, "this GPU has no bfloat16")
    elif args.bf16 is None and args.fp16 is None:
        draft.put(bf16, device.bf16, "this GPU has bfloat16" if device.bf16 else "this GPU has no bfloat16")
        draft.put(fp16, not device.bf16, "bf16 is on" if device.bf16 else "this GPU has no bfloat16")
    for path in (bf16, fp16):
        if draft.get(path) is None:
            draft.put(path, False, "not asked for")


def _fit_optimizer(draft: Draft, device: DeviceFacts) -> None:
    path = "training_args.optim"
    if device.kind == "cuda" and not draft.is_set(path) and not draft.config.fast_model_args.full_finetuning:
        draft.put(path, "adamw_torch_fused", "an adapter's states are small in 32 bits, and one kernel steps them all")
    optim = str(draft.training_args.optim)
    if optim not in BITSANDBYTES_OPTIMIZERS or (device.kind == "cuda" and device.has_bitsandbytes):
        return
    fallback = BITSANDBYTES_OPTIMIZERS[optim]
    missing = "needs a CUDA device" if device.kind == "cpu" else "needs bitsandbytes, which is not installed"
    if fallback is None:
        raise invalid(path, f"{optim} {missing}; use adamw_torch", "optimizer_unavailable")
    draft.put(path, fallback, f"{optim} {missing}; the same with 32-bit states")


def _fit_checkpointing(draft: Draft, device: DeviceFacts, engine: Engine) -> None:
    path, follows = _KEEPS, "training_args.gradient_checkpointing"
    if not draft.is_set(path) and draft.is_set(follows):
        wanted = draft.training_args.gradient_checkpointing
        on: bool | str = "unsloth" if wanted and engine == "unsloth" else bool(wanted)
        draft.put(path, on, "follows training_args.gradient_checkpointing")
    elif not draft.is_set(path) and device.kind == "cpu":
        draft.put(path, False, "on a CPU memory is not what is short")
    elif not draft.is_set(path):
        draft.put(path, "unsloth" if engine == "unsloth" else True, _SAVES_MEMORY)
    elif draft.get(path) == "unsloth" and engine != "unsloth":
        draft.put(path, True, "the Unsloth way needs the Unsloth engine; transformers checkpoints its own way")
    draft.put(follows, bool(draft.get(path)), "follows use_gradient_checkpointing")


def without_checkpointing(resolved: Resolved, reason: str) -> Resolved | None:
    """The same training with its activations kept; None where the user or the engine decided otherwise."""
    decided = (_KEEPS, "training_args.gradient_checkpointing")
    free = resolved.engine == "transformers" and resolved.why.get(_KEEPS) == _SAVES_MEMORY
    if not free or not resolved.training_args.gradient_checkpointing:
        return None
    config, args = resolved.opensloth_config.model_copy(deep=True), resolved.training_args.model_copy(deep=True)
    config.fast_model_args.use_gradient_checkpointing = args.gradient_checkpointing = False
    return replace(
        resolved, opensloth_config=config, training_args=args, why={**resolved.why, **dict.fromkeys(decided, reason)}
    )


def _fit_schedule(draft: Draft, has_eval: bool) -> None:
    args = draft.training_args
    if args.eval_strategy is None:
        if not has_eval:
            draft.put("training_args.eval_strategy", "no", "there is neither an eval dataset nor eval_split")
        elif args.eval_steps:
            draft.put("training_args.eval_strategy", "steps", "eval_steps is set")
        else:
            draft.put("training_args.eval_strategy", "epoch", "there is what to evaluate on")
    if args.save_strategy is None and args.save_steps:
        draft.put("training_args.save_strategy", "steps", "save_steps is set")
    if args.per_device_eval_batch_size is None:
        size = args.per_device_train_batch_size
        draft.put("training_args.per_device_eval_batch_size", size, "as in training")
    if args.max_steps > 0 and "num_train_epochs" in args.model_fields_set:
        draft.why["training_args.num_train_epochs"] = "not used: max_steps says when training ends"
