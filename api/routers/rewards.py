"""`/v1/rewards`: what GRPO can score answers with."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from api.dependencies import ServicesDep, authenticated, strict_query
from opensloth.rewards import describe_rewards

router = APIRouter(prefix="/v1/rewards", tags=["rewards"], dependencies=[Depends(authenticated), Depends(strict_query)])


class RewardView(BaseModel):
    """A reward: `parameters` is a JSON Schema, `columns` are read unless `column_parameters` name others."""

    object: Literal["reward"] = "reward"
    name: str
    description: str
    parameters: dict[str, Any]
    columns: list[str]
    column_parameters: list[str]
    reads_all_columns: bool
    source: Literal["builtin", "file"]
    urls: list[str] | None = None


class RewardList(BaseModel):
    """Every reward of this server."""

    object: Literal["list"] = "list"
    data: list[RewardView]
    has_more: bool = False


@router.get("", response_model_exclude_none=True)
def list_rewards(services: ServicesDep) -> RewardList:
    """The rewards that `grpo_args.reward_functions` may name, with their parameters and the columns they read."""
    return RewardList.model_validate(describe_rewards(services.rewards))
