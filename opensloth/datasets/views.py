"""Files as clients see them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from opensloth.datasets.report import FileCheck
from opensloth.datasets.rows import FileRow

_HUB = Field(exclude_if=lambda value: value is None)
"""Not shown of uploads, whose shape is OpenAI's."""


class FileView(BaseModel):
    """A file in OpenAI's shape; times in seconds since 1970."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed", "error"] = "processed"
    status_details: str | None = None
    expires_at: int | None = None
    source: Annotated[str | None, _HUB] = Field(None, description="The dataset of the hub that it was fetched from.")
    commit: Annotated[str | None, _HUB] = Field(None, description="The commit of that dataset.")

    @classmethod
    def of(cls, row: FileRow, check: FileCheck | None) -> FileView:
        """The view of a stored row; one that serves no training type has the status `error`."""
        problem = None if check is None else unfit(check)
        return cls(
            id=row.id,
            bytes=row.bytes,
            created_at=int(row.created_at),
            filename=row.filename,
            purpose=row.purpose,
            status="error" if problem else "processed",
            status_details=problem,
            expires_at=None if row.expires_at is None else int(row.expires_at),
            source=row.source,
            commit=row.commit,
        )


def unfit(check: FileCheck) -> str | None:
    """Why a file serves no training type at all; None if it serves one."""
    if any(method.ok for method in check.methods.values()):
        return None
    # The method whose form the file has says more than the one that finds no columns.
    name, method = min(check.methods.items(), key=lambda item: item[1].form is None)
    error = method.errors[0]
    return f"{name}: row {error.row}: {error.message} ({method.bad_rows} of {check.rows} rows)"
