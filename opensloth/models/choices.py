"""What a job's `model_name` stands for: a base, a result with its adapter, or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import HOST, Caller
from opensloth.errors import FieldError, InvalidInput
from opensloth.models.catalogue import HUB_ID
from opensloth.models.names import JOB_ID, parse_checkpoint_model
from opensloth.models.rows import ModelRow
from opensloth.models.views import CheckpointPlace
from opensloth.storage import Storage

CheckpointOf = Callable[[Session, str, int], CheckpointPlace | None]
"""Finds the checkpoint of a job by its step; given by who wires the services."""


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


class ModelChoices:
    """Looks models up for jobs."""

    def __init__(self, storage: Storage, checkpoint_of: CheckpointOf) -> None:
        self._storage = storage
        self._checkpoint_of = checkpoint_of

    def of(self, session: Session, name: str, field: str, caller: Caller) -> ModelChoice:
        """What `name` (a model, a hub id, a job with a result) stands for; raises InvalidInput naming `field`."""
        row = find_model(session, name)
        if row is not None and caller.can_see(row.team):
            return self._choice(session, row, field)
        if (checkpoint := self.checkpoint(session, name, caller)) is not None:
            return self._choice_of(session, checkpoint, field)
        if HUB_ID.fullmatch(name):
            return ModelChoice(base_id=name, hub_id=name)
        raise unknown_model(
            field, f"there is no model {name!r}: give a registered model, a hub id like org/name, or a job's id"
        )

    def with_adapter(
        self, session: Session, name: str, adapter: str | None, section: str, caller: Caller
    ) -> ModelChoice:
        """What `model_name` and, where given, `pretrained_lora` in the spec's `section` stand for together."""
        base = self.of(session, name, f"{section}.fast_model_args.model_name", caller)
        if adapter is None:
            return base
        field = f"{section}.pretrained_lora"
        found = self.of(session, adapter, field, caller)
        if found.adapter_key is None:
            raise unknown_model(field, f"{adapter!r} is not an adapter; give the id of a job's result")
        if base.adapter_key is not None:
            raise unknown_model(field, f"{name!r} is an adapter already; name its base {base.base_id!r} as model_name")
        if found.base_id != base.base_id:
            raise unknown_model(field, f"{adapter!r} belongs to the base {found.base_id!r}, not to {base.base_id!r}")
        return found

    def _choice(self, session: Session, row: ModelRow, field: str) -> ModelChoice:
        if row.status == "failed":
            raise unknown_model(field, f"the model {row.id!r} could not be imported: {row.error}", "model_failed")
        if row.status != "ready":
            message = f"the model {row.id!r} is still being imported; try again in a minute"
            raise unknown_model(field, message, "model_importing")
        if row.kind == "alias":
            return self.of(session, row.base_id or "", field, HOST)
        if row.kind == "base":
            hub = row.source if HUB_ID.fullmatch(row.source) else None
            return ModelChoice(base_id=row.id, hub_id=hub, storage_key=row.storage_key)
        if row.lora is None:
            return ModelChoice(base_id=row.id, storage_key=row.storage_key)
        base = self.of(session, row.base_id or "", field, HOST)
        return ModelChoice(
            base_id=base.base_id,
            hub_id=base.hub_id,
            storage_key=base.storage_key,
            adapter_key=row.storage_key,
            adapter_lora=row.lora,
        )

    def checkpoint(self, session: Session, name: str, caller: Caller) -> CheckpointPlace | None:
        """The checkpoint that `name` (`ft:...:ckpt-step-N`) stands for, if the caller sees one."""
        parsed = parse_checkpoint_model(name)
        found = self._checkpoint_of(session, *parsed) if parsed else None
        return found if found is not None and caller.can_see(found.team) else None

    def _choice_of(self, session: Session, checkpoint: CheckpointPlace, field: str) -> ModelChoice:
        base = self.of(session, checkpoint.base, field, HOST)
        try:
            with self._storage.open(f"{checkpoint.key}/adapter_config.json") as file:
                lora = json.load(file)
        except FileNotFoundError:
            # Of full fine-tuning: the checkpoint is a whole model.
            return ModelChoice(base_id=base.base_id, storage_key=checkpoint.key)
        return replace(base, adapter_key=checkpoint.key, adapter_lora=lora)


def find_model(session: Session, name: str, *, lock: bool = False) -> ModelRow | None:
    """The model with this name, or the result of the job with this id; None if there is neither."""
    row = session.get(ModelRow, name, with_for_update={"read": True} if lock else None)
    if row is None and JOB_ID.fullmatch(name):
        row = session.scalar(select(ModelRow).where(ModelRow.job_id == name).limit(1))
    return row


def unknown_model(field: str, message: str, code: str = "model_not_found") -> InvalidInput:
    """The error for a `model_name` that stands for nothing usable."""
    return InvalidInput("the model cannot be used", code=code, fields=[FieldError(field, message)])
