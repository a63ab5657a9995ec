"""What fields of a posted job mean together: refused here is what the spec alone shows to be impossible.

What depends on the device (4-bit weights, 8-bit optimizers, mixed precision) is left to `opensloth.resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.spec_fields import CHOICES, SCHEDULES
from opensloth.methods import METHODS, Method, get_method
from opensloth.resolve_method import PLUGIN_FIELD, check_method_args
from opensloth.resolve_sharding import SHARDS, why_not_sharded

CONFIG = "opensloth_config"
MODEL, LORA, DPO, GRPO = (f"{CONFIG}.{name}_args" for name in ("fast_model", "lora", "dpo", "grpo"))
ARGS = "training_args"

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_MODULE_NAME = re.compile(r"[A-Za-z0-9_.]{1,128}")


class Posted:
    """The body as it was posted; fields that are already known to be wrong count as not set."""

    def __init__(self, body: Any, wrong: set[str]) -> None:
        self._body, self._wrong = body, wrong

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path, or `default` if it is not there, null or wrong."""
        if self.is_wrong(path):
            return default
        value = self._body
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    def is_wrong(self, path: str) -> bool:
        """Whether the value at a dotted path is already known to be wrong."""
        return any(
            wrong == path or path.startswith(f"{wrong}.") or wrong.startswith(f"{path}[") for wrong in self._wrong
        )


Check = Callable[[Posted], Iterator[FieldError]]


def check_interplay(body: Any, wrong: set[str]) -> list[FieldError]:
    """All contradictions in a body whose single fields were checked before; `wrong` are the paths at fault there."""
    posted = Posted(body, wrong)
    return [error for check in _CHECKS for error in check(posted)]


def _names(posted: Posted) -> Iterator[FieldError]:
    name = posted.get("name", "")
    if not name.isprintable():
        yield FieldError("name", "contains control characters")
    model = posted.get(f"{MODEL}.model_name")
    if model is not None and (len(model) > 256 or not _MODEL_NAME.fullmatch(model) or ".." in model):
        message = "not a path: a registered model (GET /v1/models), a hub id like org/name, or an earlier job's result"
        yield FieldError(f"{MODEL}.model_name", message, "not_accepted")
    adapter = posted.get(f"{CONFIG}.pretrained_lora")
    if adapter is not None and (len(adapter) > 256 or "/" in adapter or not _MODEL_NAME.fullmatch(adapter)):
        message = "not a path: use the id of an earlier job's result, here or as fast_model_args.model_name"
        yield FieldError(f"{CONFIG}.pretrained_lora", message, "not_accepted")
    jobs = posted.get("depends_on", [])
    if isinstance(jobs, list) and len(set(jobs)) < len(jobs):
        yield FieldError("depends_on", "names a job twice")


def _choices(posted: Posted) -> Iterator[FieldError]:
    for path, choices in CHOICES.items():
        value = posted.get(path, [])
        for chosen in [value] if isinstance(value, str) else value:
            if chosen not in choices:
                yield FieldError(path, f"must be one of {', '.join(choices)}, not {chosen[:64]!r}", "not_a_choice")
    modules = posted.get(f"{LORA}.target_modules", [])
    if isinstance(modules, str) and modules != "all-linear":
        yield FieldError(f"{LORA}.target_modules", 'must be a list of layer names, or "all-linear"')
    elif isinstance(modules, list) and not all(_MODULE_NAME.fullmatch(module) for module in modules):
        yield FieldError(f"{LORA}.target_modules", "a layer's name has letters, digits, dots and underscores")


def _method(posted: Posted) -> Iterator[FieldError]:
    try:
        method = get_method(posted.get(f"{CONFIG}.training_type", "sft"))
    except InvalidInput as unknown:
        yield from unknown.fields
        return
    for other in METHODS.values():
        path = f"{CONFIG}.{other.args_field}"
        if other.args_field and other.args_field != method.args_field and posted.get(path) is not None:
            message = f'only for training_type "{other.name}", this job is "{method.name}"; leave it out'
            yield FieldError(path, message, "other_method")
    own = posted.get(f"{CONFIG}.{PLUGIN_FIELD}")
    if own is not None and method.args_field != PLUGIN_FIELD:
        message = f'{method.name} has arguments of its own in "{method.args_field}"' if method.args_field else "no use"
        yield FieldError(f"{CONFIG}.{PLUGIN_FIELD}", f"{message}; leave it out", "other_method")
    elif method.args_class is not None and method.args_field == PLUGIN_FIELD:
        try:
            check_method_args(method.args_class, own or {})
        except InvalidInput as wrong:
            yield from wrong.fields
    yield from _rows(posted, method)


def _rows(posted: Posted, method: Method) -> Iterator[FieldError]:
    if posted.get(f"{CONFIG}.sequence_packing") and not method.packs:
        yield FieldError(
            f"{CONFIG}.sequence_packing", f"{method.name} does not pack rows; leave it out", "other_method"
        )
    if posted.get(f"{CONFIG}.loss_on") is not None and method.name != "sft":
        yield FieldError(f"{CONFIG}.loss_on", f"only for sft; {method.name} learns from answers", "other_method")


def _weights(posted: Posted) -> Iterator[FieldError]:
    four, eight = posted.get(f"{MODEL}.load_in_4bit"), posted.get(f"{MODEL}.load_in_8bit")
    if four and eight:
        yield FieldError(f"{MODEL}.load_in_8bit", "load_in_4bit is on as well; choose one", "contradiction")
    if posted.get(f"{MODEL}.full_finetuning"):
        for path, value in ((f"{MODEL}.load_in_4bit", four), (f"{MODEL}.load_in_8bit", eight)):
            if value:
                yield FieldError(
                    path, "full fine-tuning trains weights of 16 or 32 bits; leave it out", "contradiction"
                )
        for path in (LORA, f"{CONFIG}.pretrained_lora"):
            if posted.get(path) is not None:
                yield FieldError(path, "full fine-tuning has no adapter; leave one of the two out", "contradiction")
    if posted.get(SHARDS):
        method, engine = posted.get(f"{CONFIG}.training_type", "sft"), posted.get(f"{CONFIG}.engine", "auto")
        obstacle = why_not_sharded(method, engine, full=bool(posted.get(f"{MODEL}.full_finetuning")))
        if obstacle is not None:
            yield FieldError(SHARDS, obstacle, "contradiction")
    if posted.get(f"{ARGS}.bf16") and posted.get(f"{ARGS}.fp16"):
        yield FieldError(f"{ARGS}.fp16", "bf16 is on as well; choose one", "contradiction")


def _checkpointing(posted: Posted) -> Iterator[FieldError]:
    path, value = f"{MODEL}.use_gradient_checkpointing", posted.get(f"{MODEL}.use_gradient_checkpointing")
    other = posted.get(f"{ARGS}.gradient_checkpointing")
    if value is not None and other is not None and bool(value) != other:
        yield FieldError(f"{ARGS}.gradient_checkpointing", f"contradicts {path}; leave one out", "contradiction")
    if value == "unsloth" and posted.get(f"{CONFIG}.engine") == "transformers":
        yield FieldError(
            path, 'the Unsloth way needs the Unsloth engine; use true with "transformers"', "contradiction"
        )


def _lengths(posted: Posted) -> Iterator[FieldError]:
    longest = posted.get(f"{MODEL}.max_seq_length", 4096)
    for name in ("dpo_args", "kto_args", "orpo_args"):
        base = f"{CONFIG}.{name}"
        whole = posted.get(f"{base}.max_length")
        if whole is not None and whole > longest:
            message = f"longer than fast_model_args.max_seq_length, which is {longest}"
            yield FieldError(f"{base}.max_length", message, "contradiction")
        prompt, room = posted.get(f"{base}.max_prompt_length"), min(whole or 1024, longest)
        if prompt is not None and prompt >= room:
            message = f"leaves no room for an answer in max_length, which is {room}"
            yield FieldError(f"{base}.max_prompt_length", message, "contradiction")
    prompt, answer = posted.get(f"{GRPO}.max_prompt_length", 1), posted.get(f"{GRPO}.max_completion_length", 1)
    if prompt + answer > longest:
        path = f"{GRPO}.{'max_completion_length' if answer > prompt else 'max_prompt_length'}"
        message = f"prompt and answer together are longer than fast_model_args.max_seq_length, which is {longest}"
        yield FieldError(path, message, "contradiction")


def _groups(posted: Posted) -> Iterator[FieldError]:
    if posted.get(f"{CONFIG}.training_type") != "grpo":
        return
    rewards = f"{GRPO}.reward_functions"
    if not posted.is_wrong(rewards) and not posted.get(rewards):
        message = 'name at least one reward, such as ["numeric_answer"]; GET /v1/rewards lists them'
        yield FieldError(rewards, message, "required")
    size, group = posted.get(f"{ARGS}.per_device_train_batch_size"), posted.get(f"{GRPO}.num_generations", 8)
    passes, devices = posted.get(f"{ARGS}.gradient_accumulation_steps", 4), posted.get("resources.gpus", 1) or 1
    if size is not None and size * passes * devices % group:
        message = f"{size} answers x {passes} passes x {devices} devices is no multiple of num_generations, {group}"
        yield FieldError(f"{ARGS}.per_device_train_batch_size", message, "not_a_multiple")
    level = posted.get(f"{GRPO}.importance_sampling_level", "token")
    if posted.get(f"{GRPO}.loss_type") == "luspo" and level != "sequence":
        yield FieldError(f"{GRPO}.importance_sampling_level", 'must be "sequence" for luspo', "contradiction")


def _dpo_loss(posted: Posted) -> Iterator[FieldError]:
    losses = posted.get(f"{DPO}.loss_type", "sigmoid")
    losses = [losses] if isinstance(losses, str) else losses
    if len(set(losses)) < len(losses):
        yield FieldError(f"{DPO}.loss_type", "names a loss twice; use loss_weights")
    weights = posted.get(f"{DPO}.loss_weights")
    if weights is not None and len(weights) != len(losses):
        message = f"must have one factor for each loss: {len(losses)}, not {len(weights)}"
        yield FieldError(f"{DPO}.loss_weights", message, "contradiction")
    if weights is not None and not all(0 <= weight <= 1000 for weight in weights):
        yield FieldError(f"{DPO}.loss_weights", "each factor must be from 0 to 1000", "out_of_range")
    if "exo_pair" in losses and not posted.get(f"{DPO}.label_smoothing"):
        yield FieldError(f"{DPO}.label_smoothing", "must be above 0 for exo_pair, such as 0.001", "contradiction")


def _data(posted: Posted) -> Iterator[FieldError]:
    dataset, evaluation = posted.get("dataset"), posted.get("eval_dataset")
    if dataset is not None and dataset == evaluation and not str(dataset).startswith("file-"):
        message = "names the rows that are trained on; name others, such as org/name[test], or use eval_split"
        yield FieldError("eval_dataset", message, "contradiction")


def _integrations(posted: Posted) -> Iterator[FieldError]:
    if (
        posted.get("secrets.wandb") is not None
        and not posted.get("integrations")
        and not posted.is_wrong("integrations")
    ):
        message = "nothing uses it; add integrations, such as [{type: wandb, project: NAME}]"
        yield FieldError("secrets.wandb", message, "contradiction")


def _evaluation(posted: Posted) -> Iterator[FieldError]:
    strategy, every = posted.get(f"{ARGS}.eval_strategy"), posted.get(f"{ARGS}.eval_steps")
    split = posted.get(f"{CONFIG}.eval_split")
    if split is not None and posted.get("eval_dataset") is not None:
        yield FieldError(f"{CONFIG}.eval_split", "there is an eval_dataset as well; leave one out", "contradiction")
    if split is None and posted.get("eval_dataset") is None:
        asked = {
            f"{ARGS}.eval_strategy": strategy not in (None, "no"),
            f"{ARGS}.eval_steps": every is not None,
            f"{ARGS}.eval_on_start": posted.get(f"{ARGS}.eval_on_start"),
            f"{ARGS}.per_device_eval_batch_size": posted.get(f"{ARGS}.per_device_eval_batch_size") is not None,
            f"{ARGS}.load_best_model_at_end": posted.get(f"{ARGS}.load_best_model_at_end"),
            f"{CONFIG}.early_stopping_patience": posted.get(f"{CONFIG}.early_stopping_patience") is not None,
        }
        for path, set_ in asked.items():
            if set_:
                message = "there is nothing to evaluate on; add eval_dataset or opensloth_config.eval_split"
                yield FieldError(path, message, "contradiction")
        return
    yield from _strategy_and_steps("eval", strategy, every)
    if strategy == "no":
        for path in (f"{ARGS}.load_best_model_at_end", f"{CONFIG}.early_stopping_patience"):
            if posted.get(path):
                yield FieldError(path, 'needs evaluation, and eval_strategy is "no"', "contradiction")


def _saving(posted: Posted) -> Iterator[FieldError]:
    yield from _strategy_and_steps("save", posted.get(f"{ARGS}.save_strategy"), posted.get(f"{ARGS}.save_steps"))


def _strategy_and_steps(what: str, strategy: str | None, every: int | float | None) -> Iterator[FieldError]:
    if strategy == "steps" and not every:
        yield FieldError(f"{ARGS}.{what}_strategy", f'"steps" needs {what}_steps above 0', "contradiction")
    if every is not None and strategy not in (None, "steps"):
        message = f'only with {what}_strategy "steps", which is "{strategy}"'
        yield FieldError(f"{ARGS}.{what}_steps", message, "contradiction")


def _schedule(posted: Posted) -> Iterator[FieldError]:
    shape = posted.get(f"{ARGS}.lr_scheduler_type", "linear")
    given, path = posted.get(f"{ARGS}.lr_scheduler_kwargs", {}), f"{ARGS}.lr_scheduler_kwargs"
    if shape not in SCHEDULES:
        return
    for name, value in given.items():
        if name not in SCHEDULES[shape]:
            known = ", ".join(sorted(SCHEDULES[shape])) or "no parameters"
            yield FieldError(f"{path}.{name[:64]}", f"{shape} does not take it; it takes {known}", "unknown_field")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
            yield FieldError(f"{path}.{name}", "must be a number from 0 to 1e9", "out_of_range")
        elif (name.endswith("_steps") or name == "timescale") and (not isinstance(value, int) or value < 1):
            yield FieldError(f"{path}.{name}", "must be a whole number of steps, at least 1", "out_of_range")
    if shape == "cosine_with_min_lr" and not given.keys() & {"min_lr", "min_lr_rate"}:
        yield FieldError(path, "cosine_with_min_lr needs min_lr or min_lr_rate", "required")
    if shape == "warmup_stable_decay" and "num_decay_steps" not in given:
        yield FieldError(path, "warmup_stable_decay needs num_decay_steps", "required")


_CHECKS: tuple[Check, ...] = (
    _names,
    _choices,
    _method,
    _weights,
    _checkpointing,
    _lengths,
    _dpo_loss,
    _groups,
    _data,
    _integrations,
    _evaluation,
    _saving,
    _schedule,
)
