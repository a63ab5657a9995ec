"""Routes of OpenAI's beside those that are served that have no meaning here, refused by name."""

from __future__ import annotations

from typing import Annotated, NoReturn

from fastapi import APIRouter, Depends, Path

from api.dependencies import authenticated
from api.openai.errors import OpenAIRoute, not_found
from api.unserved import left_out

router = APIRouter(prefix="/v1", dependencies=[Depends(authenticated)], route_class=OpenAIRoute)
Checkpoint = Annotated[str, Path(description="The name of a checkpoint as a model.")]


@router.get("/chat/completions", tags=["chat"])
def stored_chats() -> None:
    """Refused: what an answer says is kept by nobody."""
    raise left_out("chat", "GET /v1/chat/completions")


@router.get("/fine_tuning/checkpoints/{checkpoint}/permissions", tags=["fine-tuning"])
@router.post("/fine_tuning/checkpoints/{checkpoint}/permissions", tags=["fine-tuning"])
def permissions(checkpoint: Checkpoint) -> None:
    """Refused: there are no projects to share a checkpoint with."""
    _refuse()


@router.delete("/fine_tuning/checkpoints/{checkpoint}/permissions/{permission_id}", tags=["fine-tuning"])
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
