"""From a job in OpenAI's shape to the body of `POST /v1/jobs`, and from the fields of that back to the request's."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from api.openai.request import CreateJob, Hyperparameters, ReinforcementHyperparameters, Wandb
from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.spec_fields import ALLOWED, explain_unknown
from opensloth.method_args import GRPOArgs
from opensloth.methods import METHODS
from opensloth.rewards.openai_graders import reward_of
from opensloth.training_arguments import TrainingArguments

TRAINING_TYPES = {"supervised": "sft", "dpo": "dpo", "reinforcement": "grpo"}
GENERATIONS: int = GRPOArgs.model_fields["num_generations"].default
MODEL = "opensloth_config.fast_model_args.model_name"
RATE, SIZE = "training_args.learning_rate", "training_args.per_device_train_batch_size"
PASSES = "training_args.gradient_accumulation_steps"
PACKING = "opensloth_config.sequence_packing"

KEPT_CHECKPOINTS = 3
"""Those of the last epochs, as many as OpenAI keeps."""

_ELSEWHERE = {
    "dataset": "training_file",
    "eval_dataset": "validation_file",
    "metadata": "metadata",
    "integrations": "integrations",
}
_OWN = ALLOWED[""] - _ELSEWHERE.keys()
_CONFIG = ALLOWED["opensloth_config"]


@dataclass
class Translated:
    """The body of a job, and for each of its fields the name that the request has for it."""

    body: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    errors: list[FieldError] = field(default_factory=list)

    def put(self, path: str, value: Any, name: str) -> None:
        """Set a field; one that `opensloth` has set to something else is an error."""
        *parents, last = path.split(".")
        owner = self.body
        for parent in parents:
            owner = owner.setdefault(parent, {})
            if not isinstance(owner, dict):
                return  # what is wrong about it is found when the body is read
        if owner.get(last, value) != value:
            self.errors.append(FieldError(name, f"`{self.name_of(path)}` says otherwise; give one of them"))
        owner[last] = value
        self.names[path] = name

    def get(self, path: str, default: Any = None) -> Any:
        """What a field is set to."""
        value: Any = self.body
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    def name_of(self, path: str) -> str:
        """What the request calls a field of the job."""
        known = [known for known in self.names if path == known or path.startswith((f"{known}.", f"{known}["))]
        if known:
            longest = max(known, key=len)
            return self.names[longest] + path.removeprefix(longest)
        if path.split(".", 1)[0].split("[", 1)[0] in ALLOWED[""]:
            return f"opensloth.{path}"
        return path


def translate(request: CreateJob, model: str) -> Translated:
    """The job that `request` asks for; `model` is what its model stands for.

    Raises InvalidInput with the request's own fields at fault.
    """
    made = Translated()
    _take_own(made, request.opensloth or {})
    made.put("dataset", request.training_file, "training_file")
    if request.validation_file is not None:
        made.put("eval_dataset", request.validation_file, "validation_file")
    made.put(MODEL, model, "model")
    if request.suffix is not None and "name" not in made.body:
        made.put("name", request.suffix, "suffix")
    if request.seed is not None:
        made.put("training_args.seed", request.seed, "seed")
    if request.metadata:
        made.put("metadata", request.metadata, "metadata")
    if request.method is not None:
        made.put("opensloth_config.training_type", TRAINING_TYPES[request.method.type], "method.type")
    if request.method is not None and request.method.reinforcement is not None:
        _take_grader(made, request.method.reinforcement.grader)
    _take_integrations(made, request)
    _take_hyperparameters(made, request)
    _keep_a_checkpoint_an_epoch(made)
    _warm_up_for_a_tenth(made)
    if made.errors:
        raise InvalidInput("the request is not valid", fields=made.errors)
    return made


def _keep_a_checkpoint_an_epoch(made: Translated) -> None:
    """As OpenAI does; whoever says how checkpoints are to be saved has it so."""
    arguments = made.body.setdefault("training_args", {})
    if isinstance(arguments, dict) and not any(name.startswith(("save_", "load_best")) for name in arguments):
        arguments |= {"save_strategy": "epoch", "save_total_limit": KEPT_CHECKPOINTS}


def _warm_up_for_a_tenth(made: Translated) -> None:
    """Scripts bring files of some dozens of examples: OpenSloth's own ten steps may be all that such a job has."""
    arguments = made.body.setdefault("training_args", {})
    if isinstance(arguments, dict) and not any(name.startswith("warmup_") for name in arguments):
        arguments["warmup_steps"] = 0.1


def _take_own(made: Translated, own: dict[str, Any]) -> None:
    """Fields of a job, and those of its `opensloth_config` directly."""
    for name in own:
        path = f"opensloth.{name[:64]}"
        if name in _ELSEWHERE:
            made.errors.append(FieldError(path, f"use `{_ELSEWHERE[name]}`", "not_accepted"))
        elif name not in _OWN and name not in _CONFIG:
            message, code = explain_unknown("", name)
            made.errors.append(FieldError(path, message.replace("opensloth_config.", "opensloth."), code))
    for name in _OWN & own.keys():
        made.body[name] = copy.deepcopy(own[name])
    for name in sorted(_CONFIG & own.keys()):
        made.put(f"opensloth_config.{name}", copy.deepcopy(own[name]), f"opensloth.{name}")


def _take_grader(made: Translated, grader: dict[str, Any]) -> None:
    name, path = "method.reinforcement.grader", "opensloth_config.grpo_args.reward_functions"
    try:
        reward = reward_of(grader, name)
    except InvalidInput as error:
        made.errors += error.fields
        return
    made.put(path, [reward.model_dump(mode="json")], name)
    made.names |= {f"{path}[0]": name, f"{path}[0].params": name, f"{path}[0].name": f"{name}.type"}


def _take_integrations(made: Translated, request: CreateJob) -> None:
    if not request.integrations:
        return
    flat = [
        {"type": each.type, **each.wandb.model_dump(mode="json", exclude_none=True)} for each in request.integrations
    ]
    made.put("integrations", flat, "integrations")
    for name in Wandb.model_fields:
        made.names[f"integrations[0].{name}"] = f"integrations[0].wandb.{name}"


def _take_hyperparameters(made: Translated, request: CreateJob) -> None:
    given = [(request.hyperparameters, "hyperparameters")]
    if request.method is not None:
        given.append((request.method.hyperparameters, f"method.{request.method.type}.hyperparameters"))
    for values, section in given:
        if values is not None:
            _take(made, values, section)


def _take(made: Translated, values: Hyperparameters, section: str) -> None:
    method = str(made.get("opensloth_config.training_type", "sft"))
    if values.n_epochs is not None:
        made.put("training_args.num_train_epochs", values.n_epochs, f"{section}.n_epochs")
    if values.learning_rate_multiplier is not None:
        rate = default_rate(method) * values.learning_rate_multiplier
        made.put(RATE, rate, f"{section}.learning_rate_multiplier")
    if isinstance(values, ReinforcementHyperparameters):
        _take_reinforcement(made, values, section)
    if values.batch_size is not None:
        _take_batch_size(made, method, values.batch_size, f"{section}.batch_size")
    if (beta := getattr(values, "beta", None)) is not None:
        made.put("opensloth_config.dpo_args.beta", beta, f"{section}.beta")


def _take_reinforcement(made: Translated, values: ReinforcementHyperparameters, section: str) -> None:
    if values.compute_multiplier is not None:
        answers = max(2, round(GENERATIONS * values.compute_multiplier))
        name = f"{section}.compute_multiplier"
        made.put("opensloth_config.grpo_args.num_generations", answers, name)
    if values.eval_interval is not None:
        made.put("training_args.eval_steps", values.eval_interval, f"{section}.eval_interval")
    if values.eval_samples is not None:
        message = "an evaluation samples as many answers to a prompt as training does; leave it out, or set "
        message += "`compute_multiplier`"
        made.errors.append(FieldError(f"{section}.eval_samples", message, "unsupported_value"))


def _take_batch_size(made: Translated, method: str, size: int, name: str) -> None:
    """`size` examples to one optimizer step: so many to one pass on a device as the method can take, in passes."""
    devices = made.get("resources.gpus", 1)
    devices = max(1, devices) if isinstance(devices, int) else 1
    if size % devices:
        made.errors.append(FieldError(name, f"is no multiple of the {devices} devices in `opensloth.resources.gpus`"))
        return
    rows = size // devices
    if method == "grpo":
        # An example is a prompt here, and a pass one prompt with its answers.
        answers = made.get("opensloth_config.grpo_args.num_generations", GENERATIONS)
        made.put(SIZE, answers, name)
        made.put(PASSES, rows, name)
        return
    if method == "sft" and made.get(PACKING) is None:
        # A packed row holds many examples, and so many of those are not what was asked for.
        made.put(PACKING, False, name)
    most = made.get(SIZE, default_size(method))
    most = most if isinstance(most, int) and most > 0 else 1
    at_once = max(n for n in range(1, min(most, rows) + 1) if rows % n == 0)
    made.put(SIZE, at_once, name)
    made.put(PASSES, rows // at_once, name)


def default_rate(method: str) -> float:
    """The learning rate of a method where none is set, which the multiplier 1 stands for."""
    return float(_default(method, RATE, TrainingArguments.model_fields["learning_rate"].default))


def default_size(method: str) -> int:
    """The examples in one pass on one device where none are set."""
    return int(_default(method, SIZE, TrainingArguments.model_fields["per_device_train_batch_size"].default))


def _default(method: str, path: str, default: Any) -> Any:
    known = METHODS.get(method)
    return known.defaults.get(path, default) if known else default
