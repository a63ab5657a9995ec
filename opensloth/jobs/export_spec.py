"""The body of `POST /v1/jobs/{id}/exports`: read strictly from a client, tolerantly from the database."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.spec import MAX_TIME_LIMIT_S, Priority, parse_duration
from opensloth.jobs.spec_shape import describe_errors, readable
from opensloth.models.export_formats import DEFAULT_QUANTIZATION, Format, Quantization

SCHEMA_VERSION = 1
_CLOSED = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class PushToHub(BaseModel):
    """A repository of the hub that the result is pushed to."""

    model_config = _CLOSED

    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")
    """`organisation/name`; it is made if it is not there."""
    private: bool = True
    """Whether a repository that is made now is private."""
    secret: str = Field(min_length=1, max_length=64)
    """Name of the secret of yours that holds the token."""


class ExportSpec(BaseModel):
    """In which form a job's result is wanted."""

    model_config = _CLOSED

    format: Format
    """`merged_16bit` (a Hugging Face checkpoint), `gguf` (for llama.cpp and its kin) or `adapter`."""
    quantization: Quantization | None = None
    """Type of the weights in a GGUF file; q8_0 when not set."""
    push_to_hub: PushToHub | None = None
    """Where to push the result, if anywhere."""
    name: str = Field(default="", max_length=128)
    """What people call it; the source's name and the form when not set."""
    time_limit: Annotated[int | None, BeforeValidator(parse_duration)] = Field(default=None, ge=1, le=MAX_TIME_LIMIT_S)
    """Time on devices after which it is stopped, in seconds or as "2h"; none when not set."""
    priority: Priority = "normal"
    """Class in the queue; urgent is for admins."""
    max_retries: int = Field(default=2, ge=0, le=100)
    """Times a failed attempt is tried again, a count."""
    metadata: dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    """Up to 16 pairs of text for your own use: keys up to 64 characters, values up to 512."""

    @model_validator(mode="after")
    def _fill(self) -> ExportSpec:
        if self.format == "gguf":
            self.quantization = self.quantization or DEFAULT_QUANTIZATION
        return self

    @property
    def form(self) -> str:
        """The form in one word, for names."""
        return self.quantization or self.format


def parse_export_spec(body: Any) -> ExportSpec:
    """Check what a client posted; raises InvalidInput with one FieldError for each problem."""
    if not isinstance(body, dict):
        raise InvalidInput("the body is not valid", fields=[FieldError("", "an export is a JSON object", "malformed")])
    errors = [*_unknown(body, ExportSpec, "")]
    if isinstance(body.get("push_to_hub"), dict):
        errors += _unknown(body["push_to_hub"], PushToHub, "push_to_hub.")
    spec = None
    try:
        spec = ExportSpec.model_validate(body, strict=True)
    except ValidationError as invalid:
        errors += describe_errors(invalid, body)
    if body.get("quantization") is not None and body.get("format") in ("merged_16bit", "adapter"):
        errors.append(FieldError("quantization", 'only for "format": "gguf"; leave it out'))
    if errors or spec is None:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return spec


def load_export_spec(stored: dict[str, Any]) -> ExportSpec:
    """Read a spec that was accepted once."""
    return ExportSpec.model_validate(stored)


def _unknown(value: dict[Any, Any], model: type[BaseModel], prefix: str) -> list[FieldError]:
    known = list(model.model_fields)
    found = []
    for name in sorted(value.keys() - set(known), key=str)[:10]:
        near = difflib.get_close_matches(str(name)[:64], known, n=1)
        meant = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}"
        found.append(FieldError(f"{prefix}{readable(name)}", f"there is no such field; {meant}", "unknown_field"))
    return found
