"""The part of `resolve` that knows the training methods: their arguments, lengths, groups and how they are judged."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from opensloth.errors import FieldError, InvalidInput
from opensloth.methods import METHODS, Method
from opensloth.opensloth_config import DPOArgs, GRPOArgs, KTOArgs, LoraArgs, ORPOArgs
from opensloth.resolve_draft import Draft, invalid

GRPO = "opensloth_config.grpo_args"
PLUGIN_FIELD = "method_args"
"""Where the arguments are of a method from outside the package."""


def fill_parts(draft: Draft, method: Method) -> None:
    """Add the arguments that the method needs and drop those of others; the adapter's likewise."""
    config = draft.config
    others = {known.args_field for known in METHODS.values() if known.args_field} | {PLUGIN_FIELD}
    for name in sorted(others - {method.args_field}):
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


def check_method_args(args_class: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    """What a plugin's method takes, complete; raises InvalidInput with the fields at fault."""
    try:
        return args_class.model_validate(given).model_dump(mode="json")
    except ValidationError as wrong:
        errors = wrong.errors(include_url=False, include_context=False)
        paths = [".".join([f"opensloth_config.{PLUGIN_FIELD}", *map(str, error["loc"])]) for error in errors]
        fields = [FieldError(path, error["msg"]) for path, error in zip(paths, errors, strict=True)]
        raise InvalidInput(f"{fields[0].path}: {fields[0].message}", fields=fields) from None


def fill_method_defaults(draft: Draft, method: Method) -> None:
    """What the method sets where the user did not."""
    for path, value in method.defaults.items():
        if draft.has_part(path) and not draft.is_set(path):
            draft.put(path, value, f"default of {method.name}")
    if draft.config.sequence_packing and not method.packs:
        draft.put("opensloth_config.sequence_packing", False, f"{method.name} does not pack rows")


def fit_lengths(draft: Draft, method: Method) -> None:
    """Prompt and answer within `max_seq_length`; raises InvalidInput where what the user set leaves no room."""
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
            raise invalid(f"{base}.max_prompt_length", f"{message}{own.max_length}; make it smaller", "out_of_range")
        draft.put(f"{base}.max_prompt_length", own.max_length // 2, "half of max_length")


def _fit_answer_length(draft: Draft, grpo: GRPOArgs, longest: int) -> None:
    prompt, answer = f"{GRPO}.max_prompt_length", f"{GRPO}.max_completion_length"
    if grpo.max_completion_length + (grpo.max_prompt_length or 1) <= longest:
        return
    if draft.is_set(prompt) and draft.is_set(answer):
        message = f"with max_prompt_length this is longer than max_seq_length, which is {longest}"
        raise invalid(answer, message, "out_of_range")
    if not draft.is_set(answer):
        room = longest - grpo.max_prompt_length if draft.is_set(prompt) and grpo.max_prompt_length else longest // 2
        if room < 1:
            raise invalid(prompt, f"leaves no room for an answer in max_seq_length, which is {longest}")
        if room < grpo.max_completion_length:
            draft.put(answer, room, "what max_seq_length leaves beside a prompt")
    room = longest - grpo.max_completion_length
    if room < 1:
        raise invalid(answer, f"leaves no room for a prompt in max_seq_length, which is {longest}")
    if grpo.max_prompt_length is not None and grpo.max_prompt_length > room:
        draft.put(prompt, room, "what max_seq_length leaves beside an answer")


def fit_method(draft: Draft, method: Method, devices: int) -> None:
    """What must hold inside of one method; raises InvalidInput."""
    kto, grpo = draft.config.kto_args, draft.config.grpo_args
    if isinstance(kto, KTOArgs) and method.name == "kto":
        for name in ("desirable_weight", "undesirable_weight"):
            if getattr(kto, name) is None:
                draft.why[f"opensloth_config.kto_args.{name}"] = "balanced from the counts of both labels in the data"
    if grpo is None:
        return
    if not grpo.reward_functions:
        message = 'name at least one reward, such as ["numeric_answer"]; GET /v1/rewards lists them'
        raise invalid(f"{GRPO}.reward_functions", message, "required")
    args, size = draft.training_args, "training_args.per_device_train_batch_size"
    step = args.gradient_accumulation_steps * devices
    if step * args.per_device_train_batch_size % grpo.num_generations == 0:
        return
    if draft.is_set(size) and size not in draft.why:
        message = f"{args.per_device_train_batch_size} answers x {args.gradient_accumulation_steps} passes"
        message += f" x {devices} devices is no multiple of num_generations, which is {grpo.num_generations}"
        raise invalid(size, message, "not_a_multiple")
    draft.put(size, grpo.num_generations, "one group of answers to a prompt")


def fit_best(draft: Draft, method: Method) -> None:
    """By what the best weights are chosen; raises InvalidInput where nothing is evaluated."""
    args, metric = draft.training_args, "training_args.metric_for_best_model"
    patience = draft.config.early_stopping_patience
    asked = "load_best_model_at_end" if args.load_best_model_at_end else "early_stopping_patience" if patience else None
    if asked is not None and args.eval_strategy == "no":
        path = f"training_args.{asked}" if args.load_best_model_at_end else f"opensloth_config.{asked}"
        raise invalid(path, "there is nothing to evaluate on; add an eval dataset or eval_split", "contradiction")
    if asked is not None and args.metric_for_best_model is None:
        draft.put(metric, method.best_metric, f"what {method.name} is judged by; {asked} needs a metric")
    if args.metric_for_best_model is not None and args.greater_is_better is None:
        greater = not args.metric_for_best_model.endswith("loss")
        draft.put("training_args.greater_is_better", greater, "a loss is better when smaller, all else when greater")


def fit_groups(draft: Draft, method: Method, devices: int) -> None:
    """Evaluation samples whole groups of answers too."""
    grpo, args, size = draft.config.grpo_args, draft.training_args, "training_args.per_device_eval_batch_size"
    if grpo is None or args.eval_strategy == "no" or args.per_device_eval_batch_size is None:
        return
    if args.per_device_eval_batch_size * devices % grpo.num_generations == 0:
        return
    if draft.is_set(size) and size not in draft.why:
        message = f"{args.per_device_eval_batch_size} answers x {devices} devices is no multiple of "
        raise invalid(size, f"{message}num_generations, which is {grpo.num_generations}", "not_a_multiple")
    draft.put(size, grpo.num_generations, "one group of answers to a prompt")
