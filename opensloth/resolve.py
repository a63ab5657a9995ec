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

from pydantic import BaseModel, ValidationError

from opensloth.errors import FieldError, InvalidInput
from opensloth.methods import METHODS, Method, get_method
from opensloth.opensloth_config import (
    DPOArgs,
    GRPOArgs,
    KTOArgs,
    LoraArgs,
    OpenSlothConfig,
    ORPOArgs,
    TrainingArguments,
)

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


GRPO = "opensloth_config.grpo_args"
PLUGIN_FIELD = "method_args"
"""Where the arguments are of a method from outside the package."""


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
) -> Resolved:
    """Fill and fit `config` and `training_args`; neither is changed.

    `adapter_lora` is the `adapter_config.json` of the adapter that training goes on from, if it does. Resolving what
    was resolved on the same device changes nothing. Raises InvalidInput with the field at fault.
    """
    method = get_method(config.training_type)
    if training_args.use_cpu:
        device = replace(device, kind="cpu")
    draft = _Draft(config, training_args)
    _fill_parts(draft, method)
    engine = _choose_engine(draft, device)
    _fill_method_defaults(draft, method)
    _fit_lora(draft, adapter_lora)
    _fit_lengths(draft, method)
    _fit_method(draft, method, device)
    _fit_weights(draft, device, engine)
    _fit_precision(draft, device)
    _fit_optimizer(draft, device)
    _fit_checkpointing(draft, device, engine)
    _fit_schedule(draft, has_eval_dataset or draft.config.eval_split is not None)
    _fit_best(draft, method)
    _fit_groups(draft, method, device)
    return Resolved(draft.config, draft.training_args, engine, device.kind, dict(draft.why))


class _Draft:
    """The copy that is worked on; it knows what the user set and writes down every reason."""

    def __init__(self, config: OpenSlothConfig, training_args: TrainingArguments) -> None:
        self.config = config.model_copy(deep=True)
        self.training_args = training_args.model_copy(deep=True)
        self.why: dict[str, str] = {}
        self.explicit_lora = config.lora_args.model_fields_set.copy() if config.lora_args else set()

    def _owner(self, path: str) -> tuple[BaseModel | None, str]:
        root, *parents, name = path.split(".")
        owner: Any = self.config if root == "opensloth_config" else self.training_args
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name

    def has_part(self, path: str) -> bool:
        """Whether the part of the config that holds this field is there at all."""
        return self._owner(path)[0] is not None

    def is_set(self, path: str) -> bool:
        """Whether the user gave this field a value; None says "decide for me"."""
        owner, name = self._owner(path)
        return owner is not None and name in owner.model_fields_set and getattr(owner, name) is not None

    def get(self, path: str) -> Any:
        """The field's value now; its part must be there."""
        owner, name = self._owner(path)
        return getattr(owner, name)

    def put(self, path: str, value: Any, reason: str) -> None:
        """Set a field and say why; a field that had the value and was set by the user needs no reason."""
        owner, name = self._owner(path)
        if owner is None or (name in owner.model_fields_set and getattr(owner, name) == value):
            return
        setattr(owner, name, value)
        self.why[path] = reason


def _invalid(path: str, message: str, code: str = "invalid") -> InvalidInput:
    return InvalidInput(f"{path}: {message}", fields=[FieldError(path, message, code)])


def _fill_parts(draft: _Draft, method: Method) -> None:
    config = draft.config
    own = {name for known in METHODS.values() if (name := known.args_field)} - {method.args_field}
    for name in sorted(own):
        if getattr(config, name) is not None:
            draft.put(f"opensloth_config.{name}", None, f"{method.name} does not use them")
    if method.args_class is not None and method.args_field is not None:
        given = getattr(config, method.args_field)
        if method.args_field == PLUGIN_FIELD:
            config.method_args = check_method_args(method.args_class, given or {})
        elif given is None:
            setattr(config, method.args_field, method.args_class())
    if config.fast_model_args.full_finetuning:
        if config.lora_args is not None:
            draft.put("opensloth_config.lora_args", None, "full fine-tuning trains all weights, without an adapter")
    elif config.lora_args is None:
        config.lora_args = LoraArgs()


def _choose_engine(draft: _Draft, device: DeviceFacts) -> Engine:
    path, wanted = "opensloth_config.engine", draft.config.engine
    if wanted == "transformers":
        return "transformers"
    if wanted == "unsloth":
        if not device.has_unsloth:
            message = 'Unsloth is not installed where this would run; use "auto" or "transformers"'
            raise _invalid(path, message, "engine_unavailable")
        return "unsloth"
    if device.kind == "cuda" and device.has_unsloth:
        draft.put(path, "unsloth", "auto: CUDA and Unsloth are there")
        return "unsloth"
    missing = "Unsloth is not installed" if device.kind == "cuda" else "there is no CUDA device"
    draft.put(path, "transformers", f"auto: {missing}")
    return "transformers"


def _fill_method_defaults(draft: _Draft, method: Method) -> None:
    for path, value in method.defaults.items():
        if draft.has_part(path) and not draft.is_set(path):
            draft.put(path, value, f"default of {method.name}")
    if draft.config.sequence_packing and not method.packs:
        draft.put("opensloth_config.sequence_packing", False, f"{method.name} does not pack rows")


def _fit_lora(draft: _Draft, adapter_lora: dict[str, Any] | None) -> None:
    base = "opensloth_config.lora_args"
    if adapter_lora is not None:
        _hold_adapter_shape(draft, adapter_lora)
    elif draft.config.lora_args is not None and not draft.is_set(f"{base}.lora_alpha"):
        draft.put(f"{base}.lora_alpha", draft.config.lora_args.r, "follows r")


def _hold_adapter_shape(draft: _Draft, adapter: dict[str, Any]) -> None:
    if draft.config.fast_model_args.full_finetuning:
        message = "the model is a LoRA adapter, which full fine-tuning cannot go on from; start from its base model"
        raise _invalid("opensloth_config.fast_model_args.full_finetuning", message)
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


def check_method_args(args_class: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    """What a plugin's method takes, complete; raises InvalidInput with the fields at fault."""
    try:
        return args_class.model_validate(given).model_dump(mode="json")
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_context=False)
        paths = [".".join([f"opensloth_config.{PLUGIN_FIELD}", *map(str, error["loc"])]) for error in errors]
        fields = [FieldError(path, error["msg"]) for path, error in zip(paths, errors, strict=True)]
        raise InvalidInput(f"{fields[0].path}: {fields[0].message}", fields=fields) from None


def _fit_lengths(draft: _Draft, method: Method) -> None:
    own: Any = getattr(draft.config, method.args_field) if method.args_field else None
    base, longest = f"opensloth_config.{method.args_field}", draft.config.fast_model_args.max_seq_length
    if isinstance(own, GRPOArgs):
        _fit_answer_length(draft, own, longest)
    if not isinstance(own, DPOArgs | KTOArgs | ORPOArgs):
        return
    if own.max_length > longest:
        draft.put(f"{base}.max_length", longest, "not longer than max_seq_length")
    if own.max_prompt_length is not None and own.max_prompt_length >= own.max_length:
        if draft.is_set(f"{base}.max_prompt_length"):
            message = f"a prompt of {own.max_prompt_length} tokens leaves no room for an answer in max_length "
            raise _invalid(f"{base}.max_prompt_length", f"{message}{own.max_length}; make it smaller", "out_of_range")
        draft.put(f"{base}.max_prompt_length", own.max_length // 2, "half of max_length")


def _fit_answer_length(draft: _Draft, grpo: GRPOArgs, longest: int) -> None:
    prompt, answer = f"{GRPO}.max_prompt_length", f"{GRPO}.max_completion_length"
    if grpo.max_completion_length + (grpo.max_prompt_length or 1) <= longest:
        return
    if draft.is_set(prompt) and draft.is_set(answer):
        message = f"with max_prompt_length this is longer than max_seq_length, which is {longest}"
        raise _invalid(answer, message, "out_of_range")
    if not draft.is_set(answer):
        room = longest - grpo.max_prompt_length if draft.is_set(prompt) and grpo.max_prompt_length else longest // 2
        if room < 1:
            raise _invalid(prompt, f"leaves no room for an answer in max_seq_length, which is {longest}")
        if room < grpo.max_completion_length:
            draft.put(answer, room, "what max_seq_length leaves beside a prompt")
    room = longest - grpo.max_completion_length
    if room < 1:
        raise _invalid(answer, f"leaves no room for a prompt in max_seq_length, which is {longest}")
    if grpo.max_prompt_length is not None and grpo.max_prompt_length > room:
        draft.put(prompt, room, "what max_seq_length leaves beside an answer")


def _fit_method(draft: _Draft, method: Method, device: DeviceFacts) -> None:
    kto, grpo = draft.config.kto_args, draft.config.grpo_args
    if isinstance(kto, KTOArgs) and method.name == "kto":
        for name in ("desirable_weight", "undesirable_weight"):
            if getattr(kto, name) is None:
                draft.why[f"opensloth_config.kto_args.{name}"] = "balanced from the counts of both labels in the data"
    if grpo is None:
        return
    if not grpo.reward_functions:
        message = 'name at least one reward, such as ["numeric_answer"]; GET /v1/rewards lists them'
        raise _invalid(f"{GRPO}.reward_functions", message, "required")
    args, size = draft.training_args, "training_args.per_device_train_batch_size"
    step = args.gradient_accumulation_steps * device.count
    if step * args.per_device_train_batch_size % grpo.num_generations == 0:
        return
    if draft.is_set(size) and size not in draft.why:
        message = f"{args.per_device_train_batch_size} answers x {args.gradient_accumulation_steps} passes"
        message += f" x {device.count} devices is no multiple of num_generations, which is {grpo.num_generations}"
        raise _invalid(size, message, "not_a_multiple")
    draft.put(size, grpo.num_generations, "one group of answers to a prompt")


def _fit_weights(draft: _Draft, device: DeviceFacts, engine: Engine) -> None:
    base, args = "opensloth_config.fast_model_args", draft.config.fast_model_args
    if args.load_in_8bit and args.load_in_4bit:
        if draft.is_set(f"{base}.load_in_4bit"):
            raise _invalid(f"{base}.load_in_8bit", "load_in_4bit is on as well; choose one")
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


def _fit_precision(draft: _Draft, device: DeviceFacts) -> None:
    bf16, fp16, use_cpu = "training_args.bf16", "training_args.fp16", "training_args.use_cpu"
    args = draft.training_args
    if args.bf16 and args.fp16:
        raise _invalid(fp16, "bf16 is on as well; choose one")
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


def _fit_optimizer(draft: _Draft, device: DeviceFacts) -> None:
    path, optim = "training_args.optim", str(draft.training_args.optim)
    if optim not in BITSANDBYTES_OPTIMIZERS or (device.kind == "cuda" and device.has_bitsandbytes):
        return
    fallback = BITSANDBYTES_OPTIMIZERS[optim]
    missing = "needs a CUDA device" if device.kind == "cpu" else "needs bitsandbytes, which is not installed"
    if fallback is None:
        raise _invalid(path, f"{optim} {missing}; use adamw_torch", "optimizer_unavailable")
    draft.put(path, fallback, f"{optim} {missing}; the same with 32-bit states")


def _fit_checkpointing(draft: _Draft, device: DeviceFacts, engine: Engine) -> None:
    path, follows = (
        "opensloth_config.fast_model_args.use_gradient_checkpointing",
        "training_args.gradient_checkpointing",
    )
    if not draft.is_set(path) and draft.is_set(follows):
        wanted = draft.training_args.gradient_checkpointing
        on: bool | str = "unsloth" if wanted and engine == "unsloth" else bool(wanted)
        draft.put(path, on, "follows training_args.gradient_checkpointing")
    elif not draft.is_set(path) and device.kind == "cpu":
        draft.put(path, False, "on a CPU memory is not what is short")
    elif not draft.is_set(path):
        draft.put(path, "unsloth" if engine == "unsloth" else True, f"what {engine} can do to save memory")
    elif draft.get(path) == "unsloth" and engine != "unsloth":
        draft.put(path, True, "the Unsloth way needs the Unsloth engine; transformers checkpoints its own way")
    draft.put(follows, bool(draft.get(path)), "follows use_gradient_checkpointing")


def _fit_schedule(draft: _Draft, has_eval: bool) -> None:
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


def _fit_best(draft: _Draft, method: Method) -> None:
    args, metric = draft.training_args, "training_args.metric_for_best_model"
    patience = draft.config.early_stopping_patience
    asked = "load_best_model_at_end" if args.load_best_model_at_end else "early_stopping_patience" if patience else None
    if asked is not None and args.eval_strategy == "no":
        path = f"training_args.{asked}" if args.load_best_model_at_end else f"opensloth_config.{asked}"
        raise _invalid(path, "there is nothing to evaluate on; add an eval dataset or eval_split", "contradiction")
    if asked is not None and args.metric_for_best_model is None:
        draft.put(metric, method.best_metric, f"what {method.name} is judged by; {asked} needs a metric")
    if args.metric_for_best_model is not None and args.greater_is_better is None:
        greater = not args.metric_for_best_model.endswith("loss")
        draft.put("training_args.greater_is_better", greater, "a loss is better when smaller, all else when greater")


def _fit_groups(draft: _Draft, method: Method, device: DeviceFacts) -> None:
    """Evaluation samples whole groups of answers too."""
    grpo, args, size = draft.config.grpo_args, draft.training_args, "training_args.per_device_eval_batch_size"
    if grpo is None or args.eval_strategy == "no" or args.per_device_eval_batch_size is None:
        return
    if args.per_device_eval_batch_size * device.count % grpo.num_generations == 0:
        return
    if draft.is_set(size) and size not in draft.why:
        message = f"{args.per_device_eval_batch_size} answers x {device.count} devices is no multiple of "
        raise _invalid(size, f"{message}num_generations, which is {grpo.num_generations}", "not_a_multiple")
    draft.put(size, grpo.num_generations, "one group of answers to a prompt")
