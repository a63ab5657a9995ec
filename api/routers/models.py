"""`/v1/models`: base models and results, in a superset of OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.bodies import body_of
from api.body import JsonBody, parsed
from api.dependencies import After, CallerDep, ServicesDep, strict_query
from api.examples import MODEL_EXAMPLES
from opensloth.jobs.views import Page
from opensloth.models.views import ModelView

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(strict_query)])
MOST = 10_000
Limit = Annotated[int, Query(ge=1, le=MOST, description="At most so many entries.")]


class NewModel(BaseModel):
    """A base model to register, or another name for one that is there."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    id: Annotated[str, Field(min_length=1, max_length=128, description="What jobs will call it.")]
    source: Annotated[
        str | None,
        Field(max_length=4096, description="A directory or GGUF file on the server, a hub id, or a known short name."),
    ] = None
    secret: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Your secret with the token for a gated model of the hub."),
    ] = None
    alias_of: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=256,
            description="The model, or hub id, that the id stands for; another one replaces it.",
        ),
    ] = None

    @model_validator(mode="after")
    def _one_kind(self) -> NewModel:
        if self.alias_of is not None and (self.source is not None or self.secret is not None):
            raise ValueError("an alias has neither source nor secret; give `alias_of` alone")
        return self


class ModelDeleted(BaseModel):
    """A model that is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


@router.get("")
def list_models(services: ServicesDep, caller: CallerDep, limit: Limit = MOST, after: After = None) -> Page[ModelView]:
    """Base models and results, newest first; all of them unless `limit` says fewer, as OpenAI's clients ask once."""
    models, more = services.models.list(caller, limit, after)
    return Page.of(models, more)


@router.post(
    "",
    status_code=201,
    openapi_extra=body_of(NewModel, MODEL_EXAMPLES),
)
def register_model(body: JsonBody, services: ServicesDep, caller: CallerDep) -> ModelView:
    """Register a base model (admins). A worker then fetches and converts it; `status` says how far it is.

    With `alias_of` the id becomes another name of a model, so that scripts written for that name train it.
    """
    new = parsed(NewModel, body)
    if new.alias_of is not None:
        return services.models.alias(new.id, new.alias_of, caller)
    return services.models.register(new.id, new.source, caller, new.secret)


@router.get("/{model_id:path}")
def get_model(model_id: str, services: ServicesDep, caller: CallerDep) -> ModelView:
    """One model, by its id or by the id of the job that made it."""
    return services.models.get(model_id, caller)


@router.delete("/{model_id:path}")
def delete_model(model_id: str, services: ServicesDep, caller: CallerDep) -> ModelDeleted:
    """Delete a model and its files; refused while a job needs it."""
    services.models.delete(model_id, caller)
    return ModelDeleted(id=model_id)
