"""The body of `POST /v1/leases`: read strictly from a client, tolerantly from the database."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from opensloth.jobs.spec import Metadata, Priority, TimeLimit
from opensloth.jobs.spec_shape import parse_flat

SCHEMA_VERSION = 1
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OURS = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""Which devices a command sees is not its own to say."""


def _program(command: list[str]) -> list[str]:
    if not command[0].strip():
        raise ValueError("begins with the program to run")
    return command


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("a full path on the worker's host, as /home/ann/project")
    return path


def _variables(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if not _VARIABLE.fullmatch(name):
            raise ValueError("the names of variables are letters, digits and underscores")
        if name in _OURS:
            raise ValueError(f"{name} is set by the server")
    return values


class CommandSpec(BaseModel):
    """A command of one's own, with what it needs; it runs under the account that an admin gave its owner."""

    model_config = ConfigDict(extra="ignore", defer_build=True, use_attribute_docstrings=True)

    command: Annotated[list[Annotated[str, Field(max_length=4096)]], AfterValidator(_program)] = Field(
        min_length=1, max_length=256
    )
    """The program and its arguments, one entry each; no shell reads them."""
    time_limit: TimeLimit
    """Time on devices after which it is ended, in seconds or as "2h"; others plan with it, so it has to be said."""
    gpus: int = Field(default=1, ge=0, le=1024)
    """Devices, a count; on a host without GPUs these are its CPU slots. It has them for itself."""
    idle_limit: TimeLimit | None = None
    """End it once it has printed nothing and used neither processor nor GPU for so long; never when not set."""
    directory: Annotated[str, AfterValidator(_absolute)] | None = Field(default=None, max_length=4096)
    """The folder on the worker's host to run in; the account's home when not set."""
    environment: Annotated[dict[str, Annotated[str, Field(max_length=8192)]], AfterValidator(_variables)] = Field(
        default_factory=dict, max_length=64
    )
    """Variables to set beside HOME, USER, SHELL, PATH, LANG and the devices."""
    name: str = Field(default="", max_length=128)
    """What people call it; the command when not set."""
    priority: Priority = "normal"
    """Class in the queue; urgent is for admins."""
    metadata: Metadata = Field(default_factory=dict)
    """Up to 16 pairs of text for your own use: keys up to 64 characters, values up to 512."""

    @property
    def line(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.command)


def parse_command_spec(body: Any) -> CommandSpec:
    """Check what a client posted; raises InvalidInput with one FieldError for each problem."""
    return parse_flat(body, CommandSpec, "a lease")


def load_command_spec(stored: dict[str, Any]) -> CommandSpec:
    """Read a spec that was accepted once."""
    return CommandSpec.model_validate(stored)
