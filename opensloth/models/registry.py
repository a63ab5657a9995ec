"""Which models there are, and what a job's `model_name` stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from opensloth.models.names import ALIAS, JOB_ID, parse_checkpoint_model, result_name
from opensloth.models.rows import ModelRow
from opensloth.storage import Storage

_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_HINT = "`opensloth models list` shows what there is"

UserOf = Callable[[Session, list[str]], str | None]
"""Finds a job that is not over and needs one of the named models; given by who wires the services."""


@dataclass(frozen=True)
class CheckpointPlace:
    """A checkpoint of a job: whose it is, where it lies, and the model that the job started from."""

    owner: str
    team: str
    key: str
    base: str
    bytes: int
    created_at: float


CheckpointOf = Callable[[Session, str, int], CheckpointPlace | None]
"""Finds the checkpoint of a job by its step; given likewise."""


class ModelView(BaseModel):
    """A model: OpenAI's fields and ours; `created` in seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    status: Literal["importing", "ready", "failed"]
    kind: Literal["base", "result", "alias", "checkpoint"]
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

    def __init__(
        self,
        database: Database,
        storage: Storage,
        publisher: Publisher,
        user_of: UserOf,
        checkpoint_of: CheckpointOf = lambda session, job_id, step: None,
    ) -> None:
        self._db = database
        self._checkpoint_of = checkpoint_of
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
            if row is not None and (row.source != source or row.kind == "alias"):
                what = "an alias of" if row.kind == "alias" else "registered already, from"
                raise Conflict(
                    f"the model {model_id!r} is {what} {row.source}",
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

    def alias(self, name: str, target: str, caller: Caller) -> ModelView:
        """Let `name` stand for the model `target`, a registered one or one of the hub; another target replaces it.

        Raises InvalidInput, NotAllowed, and Conflict where a model has the name or a job that is not over needs it.
        """
        caller.require_admin("give models other names")
        if not ALIAS.fullmatch(name) or JOB_ID.fullmatch(name) or parse_checkpoint_model(name):
            message = "use 1 to 128 letters, digits and . _ - / : and not the name of a job or a checkpoint"
            raise InvalidInput("the alias is not usable", fields=[FieldError("id", message)])
        with self._db.write() as session:
            found = _find(session, target, lock=True)
            if found is not None and found.kind == "alias":
                message = f"{target!r} is an alias itself; name {found.base_id!r}"
                raise InvalidInput("the alias is not usable", fields=[FieldError("alias_of", message)])
            if found is not None:
                target = found.id  # a job's id stands for what it made
            self.choose(session, target, "alias_of", caller)
            row = session.get(ModelRow, name, with_for_update=True)
            if row is not None and row.kind != "alias":
                hint = "choose another name, or delete that model first"
                raise Conflict(f"there is a model {name!r} already", hint=hint)
            if row is None:
                row = ModelRow(id=name, kind="alias", status="ready", owner=caller.owner, created_at=now_of(session))
                session.add(row)
            elif row.base_id != target and (user := self._user_of(session, [name])) is not None:
                hint = "cancel that job or wait for its end"
                raise Conflict(f"the job {user} needs {name!r} as it is", hint=hint)
            row.source = row.base_id = target
            row.team = found.team if found is not None else None
            record(session, caller, "model.alias", name, target=target)
        return ModelView.of(row)

    def target(self, name: str, caller: Caller) -> str:
        """The model that `name` stands for where it is an alias that the caller sees; else `name` itself."""
        with self._db.read() as session:
            row = session.get(ModelRow, name)
            return row.base_id or name if row is not None and row.kind == "alias" and caller.can_see(row.team) else name

    def get(self, model_id: str, caller: Caller) -> ModelView:
        """The model with this id, the result of the job with this id, or a checkpoint by its name; raises NotFound."""
        with self._db.read() as session:
            if (found := self._checkpoint(session, model_id, caller)) is not None:
                return _checkpoint_view(model_id, found)
            return ModelView.of(_found(session, model_id, caller))

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
            if self._checkpoint(session, model_id, caller) is not None:
                hint = "they go with their job: `opensloth delete`"
                raise Conflict("a checkpoint is not deleted by itself", hint=hint, code="is_checkpoint")
            row = _found(session, model_id, caller)
            caller.require_change(row.owner, f"the model {model_id}")
            user = self._user_of(session, [row.id, *([row.job_id] if row.job_id else [])])
            if user is not None:
                raise Conflict(
                    f"the job {user} needs the model {model_id!r}", hint="cancel that job or wait for its end"
                )
            alias = session.scalar(
                select(ModelRow.id).where(ModelRow.source == row.id, ModelRow.kind == "alias").limit(1)
            )
            if alias is not None:
                raise Conflict(f"{alias!r} is another name of {model_id!r}", hint="delete the alias first")
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
        if (checkpoint := self._checkpoint(session, name, caller)) is not None:
            return self._choice_of(session, checkpoint, field)
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
        if row.kind == "alias":
            return self.choose(session, row.base_id or "", field, HOST)
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

    def _checkpoint(self, session: Session, name: str, caller: Caller) -> CheckpointPlace | None:
        """The checkpoint that `name` (`ft:...:ckpt-step-N`) stands for, if the caller sees one."""
        parsed = parse_checkpoint_model(name)
        found = self._checkpoint_of(session, *parsed) if parsed else None
        return found if found is not None and caller.can_see(found.team) else None

    def _choice_of(self, session: Session, checkpoint: CheckpointPlace, field: str) -> ModelChoice:
        base = self.choose(session, checkpoint.base, field, HOST)
        try:
            with self._storage.open(f"{checkpoint.key}/adapter_config.json") as file:
                lora = json.load(file)
        except FileNotFoundError:
            # Of full fine-tuning: the checkpoint is a whole model.
            return ModelChoice(base_id=base.base_id, storage_key=checkpoint.key)
        return replace(base, adapter_key=checkpoint.key, adapter_lora=lora)


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
    """Register what a job made; returns the model's id, `ft:base:team:suffix:id`, with `name` as its suffix."""
    model_id = result_name(base_id, team, name, job_id)
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


def _found(session: Session, model_id: str, caller: Caller) -> ModelRow:
    row = _find(session, model_id)
    return require_visible(row, caller, f"model {model_id!r}", _HINT, param="model", code="model_not_found")


def _find(session: Session, name: str, *, lock: bool = False) -> ModelRow | None:
    row = session.get(ModelRow, name, with_for_update={"read": True} if lock else None)
    if row is None and JOB_ID.fullmatch(name):
        row = session.scalar(select(ModelRow).where(ModelRow.job_id == name).limit(1))
    return row


def _checkpoint_view(name: str, found: CheckpointPlace) -> ModelView:
    job_id, _ = parse_checkpoint_model(name) or ("", 0)
    return ModelView(
        id=name,
        created=int(found.created_at),
        owned_by=found.owner,
        status="ready",
        kind="checkpoint",
        source=job_id,
        base=found.base,
        job_id=job_id,
        bytes=found.bytes,
    )


def unknown_model(field: str, message: str) -> InvalidInput:
    """The error for a `model_name` that stands for nothing usable."""
    return InvalidInput("the model cannot be used", code="model_not_found", fields=[FieldError(field, message)])
