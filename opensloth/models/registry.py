"""Which models there are, and what a job's `model_name` stands for."""

from __future__ import annotations

import re
import secrets as random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import exists, select, tuple_
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import HOST, Caller, require_visible, visible_to
from opensloth.accounts.secrets import SecretService
from opensloth.database import Database, after_commit, now_of
from opensloth.errors import Conflict, FieldError, InvalidInput
from opensloth.events.publisher import Publisher
from opensloth.models.catalogue import CATALOGUE, HUB_ID
from opensloth.models.rows import ModelRow
from opensloth.storage import Storage

_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
JOB_ID = re.compile(r"ftjob-[0-9a-f]+")
_HINT = "`opensloth models list` shows what there is"

UserOf = Callable[[Session, list[str]], str | None]
"""Finds a job that is not over and needs one of the named models; given by who wires the services."""


class ModelView(BaseModel):
    """A model: OpenAI's fields and ours; `created` in seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    status: Literal["importing", "ready", "failed"]
    kind: Literal["base", "result"]
    source: str
    base: str | None = None
    job_id: str | None = None
    error: str | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, row: ModelRow) -> ModelView:
        """The view of a stored row."""
        return cls.model_validate(
            {
                "id": row.id,
                "created": int(row.created_at),
                "owned_by": row.owner,
                "status": row.status,
                "kind": row.kind,
                "source": row.source,
                "base": row.base_id,
                "job_id": row.job_id,
                "error": row.error,
                "bytes": row.bytes,
            }
        )


@dataclass(frozen=True)
class ModelChoice:
    """What a `model_name` stands for.

    `hub_id` or `storage_key` says where the base is; `adapter_key` and `adapter_lora` describe the adapter to start
    from.
    """

    base_id: str
    hub_id: str | None = None
    storage_key: str | None = None
    adapter_key: str | None = None
    adapter_lora: dict[str, Any] | None = None


class ModelRegistry:
    """Registers, lists and deletes models and looks them up for jobs."""

    def __init__(self, database: Database, storage: Storage, publisher: Publisher, user_of: UserOf) -> None:
        self._db = database
        self._storage = storage
        self._publisher = publisher
        self._user_of = user_of

    def register(self, model_id: str, source: str | None, caller: Caller, secret: str | None = None) -> ModelView:
        """Register a base model under `model_id`; a worker then fetches and converts it.

        `source` is a directory or a GGUF file on the server, a hub id, or nothing for a name of the catalogue; `secret`
        names a secret of the caller's with the token for a gated model of the hub. Registering the same again gives
        the model that is there; one that failed is tried again.
        """
        caller.require_admin("register base models")
        if not _MODEL_ID.fullmatch(model_id) or JOB_ID.fullmatch(model_id):
            raise InvalidInput(
                "the model's id is not usable",
                fields=[FieldError("id", "use 1 to 64 letters, digits, dots, dashes and underscores, not a job's id")],
            )
        source = source or model_id
        if source not in CATALOGUE and not HUB_ID.fullmatch(source) and not source.startswith("/"):
            known = ", ".join(sorted(CATALOGUE))
            raise InvalidInput(
                f"{source!r} is not a model",
                fields=[
                    FieldError("source", f"give a full path on the server, a hub id like org/name, or one of: {known}")
                ],
            )
        if secret is not None and not HUB_ID.fullmatch(source):
            message = "only for a model of the hub; leave it out"
            raise InvalidInput("a secret has no use", fields=[FieldError("secret", message)])
        with self._db.write() as session:
            if secret is not None:
                SecretService.require(session, caller.owner, secret, "secret")
            row = session.get(ModelRow, model_id, with_for_update=True)
            if row is not None and row.source != source:
                raise Conflict(
                    f"the model {model_id!r} is registered already, from {row.source}",
                    hint="choose another id, or delete it first",
                )
            if row is None:
                now = now_of(session)
                row = ModelRow(
                    id=model_id, kind="base", status="failed", owner=caller.owner, source=source, created_at=now
                )
                session.add(row)
            if row.status == "failed":
                row.status, row.error = "importing", None
                # The secret is the caller's, whoever tried before.
                row.owner, row.secret = caller.owner, secret
                row.importer = row.import_until = None
            record(session, caller, "model.register", model_id, source=source)
            after_commit(session, self._publisher.wake_planner)
        return ModelView.of(row)

    def get(self, model_id: str, caller: Caller) -> ModelView:
        """The model with this id, or the result of the job with this id; raises NotFound."""
        with self._db.read() as session:
            return ModelView.of(require_visible(_find(session, model_id), caller, f"model {model_id!r}", _HINT))

    def list(self, caller: Caller, limit: int, after: str | None = None) -> tuple[list[ModelView], bool]:
        """Bases and the results that the caller sees, newest first, and whether more follow."""
        query = select(ModelRow).order_by(ModelRow.created_at.desc(), ModelRow.id.desc()).limit(limit + 1)
        query = query.where(ModelRow.team.is_(None) | visible_to(caller, ModelRow.team))
        with self._db.read() as session:
            if after is not None:
                last = session.get(ModelRow, after)
                if last is None or not caller.can_see(last.team):
                    raise InvalidInput("the page cannot be found", fields=[FieldError("after", f"no model {after!r}")])
                query = query.where(tuple_(ModelRow.created_at, ModelRow.id) < tuple_(last.created_at, last.id))
            rows = session.scalars(query).all()
        return [ModelView.of(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, model_id: str, caller: Caller) -> None:
        """Remove a model and its files; raises Conflict while a job needs it."""
        with self._db.write() as session:
            row = require_visible(_find(session, model_id), caller, f"model {model_id!r}", _HINT)
            caller.require_change(row.owner, f"the model {model_id}")
            user = self._user_of(session, [row.id, *([row.job_id] if row.job_id else [])])
            if user is not None:
                raise Conflict(
                    f"the job {user} needs the model {model_id!r}", hint="cancel that job or wait for its end"
                )
            if session.scalar(select(exists().where(ModelRow.base_id == row.id))):
                raise Conflict(f"adapters of {model_id!r} are registered", hint="delete those results first")
            key = row.storage_key
            session.delete(row)
            record(session, caller, "model.delete", row.id, owner=row.owner)
        if key:
            self._storage.delete(key)

    def choose(self, session: Session, name: str, field: str, caller: Caller) -> ModelChoice:
        """What `name` (a model, a hub id, a job with a result) stands for; raises InvalidInput naming `field`."""
        row = _find(session, name)
        if row is not None and caller.can_see(row.team):
            return self._choice(session, row, field)
        if HUB_ID.fullmatch(name):
            return ModelChoice(base_id=name, hub_id=name)
        raise unknown_model(
            field, f"there is no model {name!r}: give a registered model, a hub id like org/name, or a job's id"
        )

    def choose_with_adapter(
        self, session: Session, name: str, adapter: str | None, section: str, caller: Caller
    ) -> ModelChoice:
        """What `model_name` and, where given, `pretrained_lora` in the spec's `section` stand for together."""
        base = self.choose(session, name, f"{section}.fast_model_args.model_name", caller)
        if adapter is None:
            return base
        field = f"{section}.pretrained_lora"
        found = self.choose(session, adapter, field, caller)
        if found.adapter_key is None:
            raise unknown_model(field, f"{adapter!r} is not an adapter; give the id of a job's result")
        if base.adapter_key is not None:
            raise unknown_model(field, f"{name!r} is an adapter already; name its base {base.base_id!r} as model_name")
        if found.base_id != base.base_id:
            raise unknown_model(field, f"{adapter!r} belongs to the base {found.base_id!r}, not to {base.base_id!r}")
        return found

    def _choice(self, session: Session, row: ModelRow, field: str) -> ModelChoice:
        if row.status == "failed":
            raise unknown_model(field, f"the model {row.id!r} could not be imported: {row.error}")
        if row.status != "ready":
            raise unknown_model(field, f"the model {row.id!r} is still being imported; try again in a minute")
        if row.kind == "base":
            hub = row.source if HUB_ID.fullmatch(row.source) else None
            return ModelChoice(base_id=row.id, hub_id=hub, storage_key=row.storage_key)
        if row.lora is None:
            return ModelChoice(base_id=row.id, storage_key=row.storage_key)
        base = self.choose(session, row.base_id or "", field, HOST)
        return ModelChoice(
            base_id=base.base_id,
            hub_id=base.hub_id,
            storage_key=base.storage_key,
            adapter_key=row.storage_key,
            adapter_lora=row.lora,
        )


def add_result(
    session: Session,
    *,
    job_id: str,
    base_id: str,
    owner: str,
    team: str,
    name: str,
    key: str,
    size: int,
    lora: dict[str, Any] | None,
) -> str:
    """Register what a job made; returns the model's id, `ft:base:owner:name:suffix`."""
    slug = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:40] or "job"
    model_id = f"ft:{base_id.rsplit('/', 1)[-1]}:{owner}:{slug}:{random.token_hex(4)}"
    now = now_of(session)
    session.add(
        ModelRow(
            id=model_id,
            kind="result",
            status="ready",
            owner=owner,
            team=team,
            source=job_id,
            storage_key=key,
            base_id=base_id,
            job_id=job_id,
            lora=lora,
            bytes=size,
            created_at=now,
        )
    )
    return model_id


def _find(session: Session, name: str) -> ModelRow | None:
    row = session.get(ModelRow, name)
    if row is None and JOB_ID.fullmatch(name):
        row = session.scalar(select(ModelRow).where(ModelRow.job_id == name).limit(1))
    return row


def unknown_model(field: str, message: str) -> InvalidInput:
    """The error for a `model_name` that stands for nothing usable."""
    return InvalidInput("the model cannot be used", code="model_not_found", fields=[FieldError(field, message)])
