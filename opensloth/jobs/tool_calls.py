"""Refuses data with tool calls for a model whose chat template has no form for them, before the job is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from sqlalchemy.orm import Session

from opensloth.datasets.rows import FileRow
from opensloth.datasets.serving import tool_calls_row
from opensloth.errors import FieldError, InvalidDataset
from opensloth.jobs.spec import JobSpec
from opensloth.models.choices import ModelChoice
from opensloth.storage import Storage, StorageCorrupt

_MOST_BYTES = 16 * 2**20


class ToolCalls:
    """Knows of the models in storage whether their templates can have tool calls."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._has_form = lru_cache(maxsize=256)(self._read)

    def require_form(
        self, session: Session, spec: JobSpec, choice: ModelChoice, files: Mapping[str, FileRow | None]
    ) -> None:
        """Raise InvalidDataset for the first of `files` (by field) that calls tools where the template leaves them out.

        A template that is not in storage, and one that may have a form for calls, is left to the start of the job.
        """
        config = spec.opensloth_config
        for field, file in files.items():
            row = tool_calls_row(session, file, config.training_type, config.dataset_form) if file else None
            if file is None or row is None or choice.storage_key is None or self._may_have(choice.storage_key):
                continue
            message = (
                f"calls a tool, and the chat template of {choice.base_id} has no form for that; write the call into "
                "`content`, or train a model whose template has one"
            )
            raise InvalidDataset(
                f"{file.filename} ({file.id}) cannot be used to train {choice.base_id}: row {row} {message}",
                code="tool_calls_not_supported",
                fields=[FieldError(f"{field}.rows[{row}]", message, "tool_calls_not_supported", row)],
            )

    def _may_have(self, key: str) -> bool:
        files = self._storage.list_tree(key)
        return files is None or self._has_form(key, tuple((file.name, file.sha256) for file in files))

    def _read(self, key: str, files: tuple[tuple[str, str], ...]) -> bool:
        names = {name for name, _ in files}
        template = None
        try:
            if "chat_template.jinja" in names:
                template = self._text(f"{key}/chat_template.jinja")
            elif "tokenizer_config.json" in names:
                template = json.dumps(json.loads(self._text(f"{key}/tokenizer_config.json")).get("chat_template"))
        except (OSError, ValueError, AttributeError, StorageCorrupt):
            return True
        # One that has them names them, or writes out whole messages.
        return template is None or template == "null" or "tool_calls" in template or "tojson" in template

    def _text(self, key: str) -> str:
        with self._storage.open(key) as file:
            return file.read(_MOST_BYTES).decode()
