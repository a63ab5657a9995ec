"""Previews of files for API and command: checked input, a helper process, its answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from opensloth.accounts.callers import Caller
from opensloth.database import Database
from opensloth.datasets.forms import METHODS, form_named
from opensloth.datasets.isolated import child_environment
from opensloth.datasets.light_tokenizer_files import FILES
from opensloth.datasets.report import FileCheck, FormCheck, RowError
from opensloth.datasets.rows import FileRow
from opensloth.datasets.service import FileService
from opensloth.datasets.stored import found_file, stored_check
from opensloth.errors import FieldError, InvalidDataset, InvalidInput
from opensloth.models.choices import ModelChoice
from opensloth.models.registry import ModelRegistry
from opensloth.storage import Storage

PASSED_ON = ("HOME", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy")
LossOn = Literal["assistant", "completion", "all"]


class TokenPart(BaseModel):
    """A stretch of tokens: a whole row, a prompt or an answer; the lists hold at most the first 4,096."""

    name: str
    tokens: int
    trained_tokens: int
    token_ids: list[int]
    token_strings: list[str]
    trained: list[bool]
    cut: bool


class PreviewRow(BaseModel):
    """A row: what is trained on after its form was converted, and its tokens if a model was named."""

    row: int
    content: dict[str, Any]
    tokens: int | None
    over_length: bool | None
    parts: list[TokenPart]


class FilePreview(BaseModel):
    """Rows as a model will see them, and figures of the whole file or, if not `complete`, of its first rows."""

    object: Literal["file.preview"] = "file.preview"
    file: str
    training_type: str
    form: str
    forms: list[str]
    model: str | None
    total_rows: int
    rows: list[PreviewRow]
    statistics: dict[str, Any]


class PreviewService:
    """Makes previews; the process that asks never loads a tokenizer. Each may take two gigabytes in a helper's process:
    whoever asks bounds how many there are."""

    def __init__(
        self, database: Database, storage: Storage, files: FileService, models: ModelRegistry, timeout_s: float
    ) -> None:
        self._db = database
        self._storage = storage
        self._files = files
        self._models = models
        self._timeout_s = timeout_s

    def preview(
        self,
        file_id: str,
        caller: Caller,
        *,
        training_type: str | None = None,
        model: str | None = None,
        form: str | None = None,
        loss_on: LossOn | None = None,
        max_length: int | None = None,
        eval_file: str | None = None,
        offset: int = 0,
        rows: int = 3,
    ) -> FilePreview:
        """The preview of one file.

        Raises NotFound, InvalidInput for a model, form or method that does not fit, InvalidDataset with the first bad
        rows for a file that cannot be trained on so.
        """
        with self._db.read() as session:
            row = found_file(session, file_id, caller)
            check = stored_check(session, row.sha256)
            evaluation = found_file(session, eval_file, caller) if eval_file is not None else None
            choice = self._models.choices.of(session, model, "model", caller) if model is not None else None
        if check is None:
            raise InvalidDataset("the file was checked by another release", hint="upload it again")
        method, used = _choice(row.filename, check, training_type, form)
        wanted = {
            "training_type": method,
            "form": used,
            "loss_on": loss_on,
            "max_length": max_length,
            "offset": offset,
            "rows": rows,
        }
        with tempfile.TemporaryDirectory(prefix="opensloth-preview-") as scratch:
            answer = self._ask(wanted | self._sources(row, evaluation, choice, Path(scratch)))
        return FilePreview(
            file=file_id,
            training_type=method,
            form=used,
            forms=list(check.methods[method].forms),
            model=model,
            total_rows=check.rows,
            rows=answer["rows"],
            statistics=answer["statistics"],
        )

    def _sources(
        self, row: FileRow, evaluation: FileRow | None, choice: ModelChoice | None, scratch: Path
    ) -> dict[str, Any]:
        """Where the helper finds files and tokenizer; what storage does not have as a file is copied to `scratch`."""
        found: dict[str, Any] = {
            "file": self._source(row, scratch),
            "evaluation": self._source(evaluation, scratch) if evaluation else None,
        }
        if choice is not None and choice.storage_key is not None:
            found["model_folder"] = str(self._tokenizer_files(choice.storage_key, scratch / "model"))
        elif choice is not None:
            found["hub_id"] = choice.hub_id
        return found

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        environment = child_environment() | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "opensloth.datasets.preview"],
                input=json.dumps({**request, "statistics_s": self._timeout_s / 2}).encode(),
                env=environment,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InvalidInput(
                f"the preview took longer than {self._timeout_s:g} s",
                code="preview_timeout",
                hint="ask for fewer rows; a chat template that does not end has the same effect",
            ) from None
        if done.returncode != 0:
            raise InvalidInput(
                "the preview needs too much memory", code="preview_failed", hint="ask for fewer or shorter rows"
            )
        answer: dict[str, Any] = json.loads(done.stdout)
        if "refused" in answer:
            fields = [FieldError(**field) for field in answer["fields"]]
            raise InvalidInput(answer["refused"], code=answer["code"], hint=answer["hint"], fields=fields)
        return answer

    def _source(self, row: FileRow, scratch: Path) -> dict[str, Any]:
        local = self._storage.local_path(row.storage_key)
        if local is None:
            local = scratch / row.id
            self._copy(row.storage_key, local)
        return {"path": str(local), "name": row.filename, "container": row.container}

    def _tokenizer_files(self, key: str, folder: Path) -> Path:
        local = self._storage.local_path(key)
        if local is not None:
            return local
        folder.mkdir()
        for name in FILES:
            if self._storage.exists(f"{key}/{name}"):
                self._copy(f"{key}/{name}", folder / name)
        return folder

    def _copy(self, key: str, target: Path) -> None:
        with self._storage.open(key) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)


def _choice(name: str, check: FileCheck, training_type: str | None, form: str | None) -> tuple[str, str]:
    """The method and form to show: those asked for, else the first that fits. Raises InvalidInput, InvalidDataset."""
    method = training_type or next((fit for fit, found in check.methods.items() if found.ok), "sft")
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise InvalidInput("the training type is unknown", fields=[FieldError("training_type", f"there are {known}")])
    used = form_named(method, form, "form").name if form else check.methods[method].form
    fits = check.methods[method].forms.get(used) if used else None
    if used is None or (fits is not None and not fits.ok):
        raise _unfit(name, method, check, fits or check.methods[method])
    return method, used


def _unfit(name: str, method: str, check: FileCheck, found: FormCheck) -> InvalidDataset:
    def field(error: RowError) -> FieldError:
        return FieldError(f"rows[{error.row}].{error.column or ''}", error.message, "invalid_row", error.row)

    return InvalidDataset(
        f"{name} cannot be used for {method}: {found.bad_rows} of {check.rows} rows are wrong",
        hint="correct the rows that are named and upload the file again",
        fields=[field(error) for error in found.errors],
    )
