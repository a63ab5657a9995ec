"""What bodies and answers about users and teams have in common: their limits."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from opensloth.accounts.rows import TeamRow, UserRow

Count = Annotated[int | None, Field(ge=0, le=2**53)]
Requests = Annotated[int | None, Field(ge=1, le=10**9)]


class Limits(BaseModel):
    """What a user or a team may have; null is without limit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    share: Annotated[float, Field(gt=0, le=1e6, description="Weight among the users of a team, or among teams.")] = 1.0
    max_devices: Annotated[Count, Field(description="Devices at once.")] = None
    max_queued: Annotated[Count, Field(description="Jobs that wait, are queued or are paused.")] = None
    device_hours: Annotated[
        float | None, Field(ge=0, le=1e9, description="In a calendar month (UTC); then jobs wait for the next.")
    ] = None
    max_bytes: Annotated[Count, Field(description="Stored files, checkpoints and results.")] = None
    requests_per_minute: Annotated[
        Requests, Field(description="Of each key, before the team's; null: what the server's setting says.")
    ] = None

    def limits(self) -> dict[str, Any]:
        """The limits alone, as columns."""
        return {name: getattr(self, name) for name in Limits.model_fields}


def limits_of(row: UserRow | TeamRow) -> dict[str, Any]:
    """The limits of a stored row."""
    return {name: getattr(row, name) for name in Limits.model_fields}


def changes_of(body: BaseModel) -> dict[str, Any]:
    """The fields that a body has, whatever their values."""
    return body.model_dump(include=body.model_fields_set)
