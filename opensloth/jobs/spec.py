"""The body of `POST /v1/jobs`: read strictly from a client, tolerantly from the database."""

from __future__ import annotations

import copy
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from opensloth.datasets.hub_names import SPELLING, parse_hub_dataset
from opensloth.errors import FieldError, InvalidInput
from opensloth.integrations import WandbIntegration
from opensloth.jobs.spec_checks import check_interplay
from opensloth.jobs.spec_shape import check_shape, describe_errors
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.training_arguments import QUIET

SCHEMA_VERSION = 1
MAX_TIME_LIMIT_S = 365 * 24 * 3600

_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?")
_MEMORY = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(KiB|MiB|GiB|TiB|KB|MB|GB|TB|B)", re.IGNORECASE)
_UNITS = (
    {"b": 1}
    | {f"{p}b": 1000**n for n, p in enumerate("kmgt", 1)}
    | {f"{p}ib": 1024**n for n, p in enumerate("kmgt", 1)}
)


def parse_duration(value: Any) -> Any:
    """Seconds from "2h", "90m", "1h30m" or "45s"; anything but text is left as it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value.strip().lower())
    if found is None or not any(found.groups()):
        raise ValueError('a time like "2h", "90m" or "1h30m", or a number of seconds')
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_memory(value: Any) -> Any:
    """Bytes from "24GiB" or "800MB"; anything but text is left as it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    found = _MEMORY.fullmatch(value.strip())
    if found is None:
        raise ValueError('a size like "24GiB" or "800MB", or a number of bytes')
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_CLOSED = ConfigDict(extra="ignore", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True)

_FILE_ID = re.compile(r"file-[A-Za-z0-9_-]{1,64}")


def _dataset(value: str) -> str:
    if _FILE_ID.fullmatch(value) or parse_hub_dataset(value) is not None:
        return value
    raise ValueError(f"the id of an uploaded file (file-...), or a dataset of the hub: {SPELLING}")


Dataset = Annotated[str, AfterValidator(_dataset)]
TimeLimit = Annotated[int, BeforeValidator(parse_duration), Field(ge=1, le=MAX_TIME_LIMIT_S)]
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
JobId = Annotated[str, Field(pattern=r"^ftjob-[A-Za-z0-9_-]{1,64}$")]
Priority = Literal["low", "normal", "high", "urgent"]
PRIORITIES: dict[str, int] = {"low": 0, "normal": 1, "high": 2, "urgent": 3}
"""The rank of each class."""
PRIORITY_NAMES = {rank: name for name, rank in PRIORITIES.items()}


class Resources(BaseModel):
    """What a job occupies while it runs."""

    model_config = _CLOSED

    gpus: int = Field(default=1, ge=0, le=1024)
    """Devices, a count; on a host without GPUs these are its CPU slots. 0 means 1: a job always takes a device."""
    memory: Annotated[int | None, BeforeValidator(parse_memory)] = Field(default=None, ge=1, le=2**60)
    """Memory on each device, in bytes or as "24GiB"; estimated when not set."""
    exclusive: bool = False
    """Keep the devices for this job alone."""


class JobSecrets(BaseModel):
    """Names of secrets of the caller's; nothing shows a value."""

    model_config = _CLOSED

    hub: str | None = Field(default=None, min_length=1, max_length=64)
    """The one with the token for gated or private datasets and models of the hub."""
    wandb: str | None = Field(default=None, min_length=1, max_length=64)
    """The one with the key for Weights & Biases; the one called `wandb` if not set and an integration needs it."""


class JobSpec(BaseModel):
    """A job as it was posted: what to train, and what a service needs to know around it."""

    model_config = _CLOSED

    name: str = Field(default="", max_length=128)
    """What people call it, up to 128 characters; when it is not set, empty or blank, the method and the model."""
    dataset: Dataset
    """What to train on: the id of an uploaded file, or a dataset of the hub as `org/name@revision:config[split]`."""
    eval_dataset: Dataset | None = None
    """What to evaluate on, in the same way."""
    opensloth_config: OpenSlothConfig
    """Method, model, adapter and data handling."""
    training_args: TrainingArguments = Field(default_factory=TrainingArguments)
    """Optimizer, batch, schedule and so on, under transformers' names."""
    secrets: JobSecrets = Field(default_factory=JobSecrets)
    """Names of secrets that it needs."""
    integrations: list[WandbIntegration] = Field(default_factory=list, max_length=1)
    """Where its metrics go besides: at most one run at Weights & Biases."""
    resources: Resources = Field(default_factory=Resources)
    """Devices and memory."""
    time_limit: TimeLimit | None = None
    """Time on devices after which the job is stopped, in seconds or as "2h"; none when not set."""
    priority: Priority = "normal"
    """Class in the queue; urgent is for admins."""
    max_retries: int = Field(default=2, ge=0, le=100)
    """Times a failed attempt is tried again, a count."""
    metadata: Metadata = Field(default_factory=dict)
    """Up to 16 pairs of text for your own use: keys up to 64 characters, values up to 512."""
    depends_on: Annotated[list[JobId], BeforeValidator(_as_list)] = Field(default_factory=list, max_length=64)
    """Jobs that must have succeeded before this one starts, one id or a list."""

    @property
    def wandb(self) -> WandbIntegration | None:
        """The run at Weights & Biases that it reports to."""
        return next(iter(self.integrations), None)

    @model_validator(mode="after")
    def _name_it(self) -> JobSpec:
        if not self.name.strip():
            model = self.opensloth_config.fast_model_args.model_name.rsplit("/", 1)[-1]
            self.name = f"{self.opensloth_config.training_type}-{model}"[:128]
        return self


def parse_job_spec(body: Any) -> JobSpec:
    """Check what a client posted; raises InvalidInput, and nothing else, with one FieldError for each problem."""
    errors = check_shape(body)
    spec = None
    if not any(error.code == "malformed" for error in errors):
        try:
            spec = JobSpec.model_validate(body, strict=True, context=QUIET)
        except ValidationError as invalid:
            found = {error.path for error in errors}
            errors += [error for error in describe_errors(invalid, body) if error.path not in found]
        errors += check_interplay(body, {error.path for error in errors})
    if errors or spec is None:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InvalidInput(f"{first.path}: {first.message}{more}" if first.path else first.message, fields=errors)
    return spec


def load_job_spec(stored: dict[str, Any]) -> JobSpec:
    """Read a spec that was accepted once, by this release or another: what it cannot read takes its default.

    Raises InvalidInput only if dataset or model are gone from it.
    """
    body = copy.deepcopy({name: value for name, value in stored.items() if name != "schema_version"})
    while True:
        try:
            return JobSpec.model_validate(body, context=QUIET)
        except ValidationError as invalid:
            fields = describe_errors(invalid, body)
            if not _drop_unreadable(body, fields):
                raise InvalidInput("the stored job spec cannot be read", code="stored_spec", fields=fields) from None


def _drop_unreadable(body: dict[str, Any], errors: list[FieldError]) -> bool:
    """Remove the fields at fault; False if there was none to remove."""
    dropped = False
    for error in errors:
        owner: Any = body
        *parents, name = re.sub(r"\[\d+\].*", "", error.path).split(".")
        for parent in parents:
            owner = owner.get(parent) if isinstance(owner, dict) else None
        if isinstance(owner, dict) and name in owner:
            del owner[name]
            dropped = True
    return dropped
