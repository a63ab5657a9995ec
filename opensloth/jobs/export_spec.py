"""The body of `POST /v1/jobs/{id}/exports`: read strictly from a client, tolerantly from the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from opensloth.errors import FieldError
from opensloth.jobs.spec import Metadata, Priority, TimeLimit
from opensloth.jobs.spec_shape import parse_flat, unknown_fields
from opensloth.models.export_formats import DEFAULT_QUANTIZATION, Format, Quantization

SCHEMA_VERSION = 1
_CLOSED = ConfigDict(extra="ignore", defer_build=True, use_attribute_docstrings=True)


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
    time_limit: TimeLimit | None = None
    """Time on devices after which it is stopped, in seconds or as "2h"; none when not set."""
    priority: Priority = "normal"
    """Class in the queue; urgent is for admins."""
    max_retries: int = Field(default=2, ge=0, le=100)
    """Times a failed attempt is tried again, a count."""
    metadata: Metadata = Field(default_factory=dict)
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
    return parse_flat(body, ExportSpec, "an export", _check_fields)


def _check_fields(body: dict[str, Any]) -> Iterator[FieldError]:
    if isinstance(body.get("push_to_hub"), dict):
        yield from unknown_fields(body["push_to_hub"], PushToHub, "push_to_hub.")
    if body.get("quantization") is not None and body.get("format") in ("merged_16bit", "adapter"):
        yield FieldError("quantization", 'only for "format": "gguf"; leave it out')


def load_export_spec(stored: dict[str, Any]) -> ExportSpec:
    """Read a spec that was accepted once."""
    return ExportSpec.model_validate(stored)
