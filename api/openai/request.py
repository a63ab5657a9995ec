"""The body of `POST /v1/fine_tuning/jobs`, read strictly: "auto" is what is left to OpenSloth, as None is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from opensloth.errors import FieldError, InvalidInput

_CLOSED = ConfigDict(extra="forbid", strict=True, defer_build=True, allow_inf_nan=False)


def _auto(value: Any) -> Any:
    return None if value == "auto" else value


AutoInt = Annotated[Annotated[int, Field(ge=1, le=100_000)] | None, BeforeValidator(_auto)]
AutoFloat = Annotated[Annotated[float, Field(gt=0, le=1_000_000)] | None, BeforeValidator(_auto)]


class Hyperparameters(BaseModel):
    """What every method has; `learning_rate_multiplier` scales the method's own default."""

    model_config = _CLOSED

    n_epochs: AutoInt = None
    batch_size: AutoInt = None
    learning_rate_multiplier: AutoFloat = None


class DpoHyperparameters(Hyperparameters):
    """Those of DPO."""

    beta: AutoFloat = None


class ReinforcementHyperparameters(Hyperparameters):
    """Those of reinforcement; an effort of reasoning is not something that these models have."""

    compute_multiplier: AutoFloat = None
    eval_interval: AutoInt = None
    eval_samples: AutoInt = None
    reasoning_effort: Literal["default"] | None = None


class Supervised(BaseModel):
    """Supervised fine-tuning."""

    model_config = _CLOSED

    hyperparameters: Hyperparameters | None = None


class Dpo(BaseModel):
    """Direct preference optimization."""

    model_config = _CLOSED

    hyperparameters: DpoHyperparameters | None = None


class Reinforcement(BaseModel):
    """Reinforcement by a grader, which is GRPO here."""

    model_config = _CLOSED

    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters | None = None


class Method(BaseModel):
    """The method and, under its name, what it takes."""

    model_config = _CLOSED

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None

    @model_validator(mode="after")
    def _own_part_alone(self) -> Method:
        for name in ("supervised", "dpo", "reinforcement"):
            if name != self.type and getattr(self, name) is not None:
                raise ValueError(f"`{name}` is given, and `type` is {self.type!r}; leave one out")
        if self.type == "reinforcement" and self.reinforcement is None:
            raise ValueError("`reinforcement` is required, with its `grader`")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the chosen type."""
        part = {"supervised": self.supervised, "dpo": self.dpo, "reinforcement": self.reinforcement}[self.type]
        return (part.hyperparameters if part else None) or Hyperparameters()


class Wandb(BaseModel):
    """The run at Weights & Biases that metrics go to."""

    model_config = _CLOSED

    project: Annotated[str, Field(min_length=1, max_length=128)]
    name: Annotated[str | None, Field(max_length=128)] = None
    entity: Annotated[str | None, Field(max_length=128)] = None
    tags: Annotated[list[Annotated[str, Field(max_length=64)]] | None, Field(max_length=32)] = None


class Integration(BaseModel):
    """Somewhere that metrics go to besides."""

    model_config = _CLOSED

    type: Literal["wandb"]
    wandb: Wandb


class CreateJob(BaseModel):
    """A job in OpenAI's shape; `opensloth` has what OpenAI has no word for."""

    model_config = _CLOSED

    model: Annotated[str, Field(min_length=1, max_length=256)]
    training_file: Annotated[str, Field(min_length=1, max_length=256)]
    validation_file: Annotated[str | None, Field(min_length=1, max_length=256)] = None
    method: Method | None = None
    hyperparameters: Annotated[
        Hyperparameters | None, Field(deprecated="give them under `method`", description="Deprecated.")
    ] = None
    suffix: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    seed: int | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(min_length=1, max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    integrations: Annotated[list[Integration] | None, Field(max_length=1)] = None
    opensloth: Annotated[
        dict[str, Any] | None,
        Field(
            description="Fields of a job of OpenSloth's: resources, priority, time_limit, training_args and so on, and "
            "those of its opensloth_config: training_type, lora_args, kto_args, ..."
        ),
    ] = None


def read_request(body: Any) -> CreateJob:
    """The body as a request; raises InvalidInput with a FieldError for each thing that is wrong."""
    try:
        return CreateJob.model_validate(body)
    except ValidationError as error:
        fields = [_field(problem) for problem in error.errors(include_url=False)]
    raise InvalidInput("the request is not valid", fields=fields)


def _field(problem: Any) -> FieldError:
    named = [part if isinstance(part, int) else part[:64] for part in problem["loc"] if part != "[key]"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in named)
    path = path.removeprefix(".") or "body"
    if path == "method.reinforcement.response_format":
        return FieldError(path, "answers are not held to a schema here; leave it out", "unsupported_value")
    if problem["type"] == "extra_forbidden":
        message = "OpenAI's body has no such field; what OpenSloth has besides goes under `opensloth`"
        return FieldError(path, message, "unknown_parameter")
    if problem["type"] == "missing":
        return FieldError(path, "is required", "missing_required_parameter")
    if path.endswith("reasoning_effort"):
        return FieldError(
            path, "the models trained here have no effort of reasoning; leave it out", "unsupported_value"
        )
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return FieldError(path, message, "invalid_value")
