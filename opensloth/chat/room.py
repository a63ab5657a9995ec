"""The memory that an engine for a model needs on its device, and how many tokens it can hold there."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.devices.estimate import GIB
from opensloth.devices.rows import DeviceRow
from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.assessment import GIVEN, largest, within
from opensloth.jobs.model_shapes import ModelShapes
from opensloth.jobs.unplaceable import gib
from opensloth.models.choices import ModelChoice

KV_TOKENS = {"cuda": 32768, "cpu": 16384}
"""Keys and values of so many tokens, for all answers together."""
LEAST_KV_TOKENS = 4096
"""With room for less than this a model is too large to chat with."""
SPARE = 2 * GIB
"""Adapters, a step's activations and scores, a CUDA context."""


@dataclass(frozen=True)
class Room:
    """What an engine gets; `memory_bytes` None: a whole device."""

    memory_bytes: int | None
    kv_tokens: int


def room_for(session: Session, shapes: ModelShapes, model: ModelChoice, name: str) -> Room:
    """By the model's shape; raises InvalidInput where no device of the box has room for it."""
    kinds = set(session.scalars(select(DeviceRow.kind).distinct()))
    kind = "cuda" if "cuda" in kinds else "cpu"
    shape = shapes.of(model.storage_key) if model.storage_key is not None else None
    room = largest(session, 1)
    if shape is None or room is None:
        return Room(None, KV_TOKENS[kind])
    bytes_each = 2 if kind == "cuda" else 4
    weights = shape.parameters * bytes_each
    token = 2 * shape.layers * shape.key_value * bytes_each
    spare = SPARE if kind == "cuda" else 0
    left = int(room * GIVEN) - weights - spare
    if left < LEAST_KV_TOKENS * token:
        message = (
            f"the model {name} needs {gib(weights + spare + LEAST_KV_TOKENS * token)} or more on one device to chat "
            f"with, and the largest can give {gib(int(room * GIVEN))}"
        )
        raise InvalidInput(message, code="model_too_large", fields=[FieldError("model", message, "model_too_large")])
    tokens = min(KV_TOKENS[kind], left // token)
    share = None if kinds != {"cuda"} else within(weights + spare + tokens * token, room)
    return Room(share, tokens)
