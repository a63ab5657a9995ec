"""Routes of OpenAI's fine-tuning that have no meaning here, refused by name."""

from __future__ import annotations

from typing import Annotated, NoReturn

from fastapi import APIRouter, Depends, Path

from api.dependencies import authenticated
from api.openai.errors import OpenAIRoute, not_found

router = APIRouter(
    prefix="/v1/fine_tuning/checkpoints",
    tags=["fine-tuning"],
    dependencies=[Depends(authenticated)],
    route_class=OpenAIRoute,
)
Checkpoint = Annotated[str, Path(description="The name of a checkpoint as a model.")]


@router.get("/{checkpoint}/permissions")
@router.post("/{checkpoint}/permissions")
def permissions(checkpoint: Checkpoint) -> None:
    """Refused: there are no projects to share a checkpoint with."""
    _refuse()


@router.delete("/{checkpoint}/permissions/{permission_id}")
def delete_permission(checkpoint: Checkpoint, permission_id: str) -> None:
    """Refused likewise."""
    _refuse()


def _refuse() -> NoReturn:
    raise not_found(
        "Permissions of checkpoints are not supported: OpenSloth has no projects, and a team sees all of its own",
        "permissions",
        "not_supported",
        "ask an admin to move people to one team",
    )
