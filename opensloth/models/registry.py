"""Which models there are: bases, results and their other names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import exists, select, tuple_
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, require_visible, visible_to
from opensloth.accounts.secrets import SecretService
from opensloth.database import Database, after_commit, now_of
from opensloth.errors import Conflict, FieldError, InvalidInput
from opensloth.events.publisher import Publisher
from opensloth.models.catalogue import CATALOGUE, HUB_ID
from opensloth.models.choices import CheckpointOf, ModelChoices, find_model
from opensloth.models.names import ALIAS, JOB_ID, parse_checkpoint_model, result_name
from opensloth.models.rows import ModelRow
from opensloth.models.views import ModelView
from opensloth.storage import Storage

_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_HINT = "`opensloth models list` shows what there is"

UserOf = Callable[[Session, list[str]], str | None]
"""Finds a job that is not over and needs one of the named models; given by who wires the services."""


class ModelRegistry:
    """Registers, lists and deletes models."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        publisher: Publisher,
        user_of: UserOf,
        checkpoint_of: CheckpointOf = lambda session, job_id, step: None,
    ) -> None:
        self.choices = ModelChoices(storage, checkpoint_of)
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
            found = find_model(session, target, lock=True)
            if found is not None and found.kind == "alias":
                message = f"{target!r} is an alias itself; name {found.base_id!r}"
                raise InvalidInput("the alias is not usable", fields=[FieldError("alias_of", message)])
            if found is not None:
                target = found.id  # a job's id stands for what it made
            self.choices.of(session, target, "alias_of", caller)
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
            if (found := self.choices.checkpoint(session, model_id, caller)) is not None:
                return ModelView.of_checkpoint(model_id, found)
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
            if self.choices.checkpoint(session, model_id, caller) is not None:
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
    row = find_model(session, model_id)
    return require_visible(row, caller, f"model {model_id!r}", _HINT, param="model", code="model_not_found")
