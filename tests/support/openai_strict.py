"""Every answer to the openai package, checked against the package's own types while a test goes on."""

from __future__ import annotations

import json
import re
from typing import Any, Generic, Literal, TypeVar

from openai.types import FileDeleted, FileObject, Model, ModelDeleted, Upload
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.alpha import GraderRunResponse, GraderValidateResponse
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart
from pydantic import BaseModel, ConfigDict, TypeAdapter

T = TypeVar("T")


class StrictPage(BaseModel, Generic[T]):
    """What a list must be for the SDK to page through it."""

    model_config = ConfigDict(extra="allow")

    object: Literal["list"]
    data: list[T]
    has_more: bool


class StrictError(BaseModel):
    """OpenAI's error object; every part of it is there."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: str
    param: str | None
    code: str | None


ID = r"[^/]+"
TYPES: list[tuple[str, str, Any]] = [
    ("GET", r"/fine_tuning/jobs", StrictPage[FineTuningJob]),
    ("POST", r"/fine_tuning/jobs", FineTuningJob),
    ("GET", rf"/fine_tuning/jobs/{ID}", FineTuningJob),
    ("POST", rf"/fine_tuning/jobs/{ID}/(cancel|pause|resume)", FineTuningJob),
    ("GET", rf"/fine_tuning/jobs/{ID}/events", StrictPage[FineTuningJobEvent]),
    ("GET", rf"/fine_tuning/jobs/{ID}/checkpoints", StrictPage[FineTuningJobCheckpoint]),
    ("GET", r"/files", StrictPage[FileObject]),
    ("POST", r"/files", FileObject),
    ("GET", rf"/files/{ID}", FileObject),
    ("DELETE", rf"/files/{ID}", FileDeleted),
    ("POST", r"/uploads", Upload),
    ("POST", rf"/uploads/{ID}/(complete|cancel)", Upload),
    ("POST", rf"/uploads/{ID}/parts", UploadPart),
    ("POST", r"/fine_tuning/alpha/graders/run", GraderRunResponse),
    ("POST", r"/fine_tuning/alpha/graders/validate", GraderValidateResponse),
    ("GET", r"/models", StrictPage[Model]),
    ("GET", r"/models/.+", Model),
    ("DELETE", r"/models/.+", ModelDeleted),
]
OWN = {
    FineTuningJob: {"opensloth"},
    FineTuningJobEvent: set(),
    FineTuningJobCheckpoint: set(),
}
"""What our answers may have beside the package's fields."""


class Checker:
    """A response hook of the HTTP client; `seen` counts what was checked, so that a test can tell that it was."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def __call__(self, response: Any) -> None:
        """Check one answer."""
        response.read()
        self.check(response)

    async def checked(self, response: Any) -> None:
        """The same for an asynchronous client."""
        await response.aread()
        self.check(response)

    def check(self, response: Any) -> None:
        path = response.request.url.path.removeprefix("/v1")
        if response.status_code >= 400:
            StrictError.model_validate(response.json()["error"], strict=True)
            if path.startswith("/fine_tuning"):
                assert set(response.json()) == {"error"}, response.text
            self._count(StrictError)
            return
        if path.endswith("/content"):
            return
        matching = [t for method, form, t in TYPES if method == response.request.method and re.fullmatch(form, path)]
        assert matching, f"no type is known for {response.request.method} {path}"
        validate(matching[0], response.json())
        self._count(matching[0])

    def _count(self, kind: Any) -> None:
        name = getattr(kind, "__name__", str(kind))
        self.seen[name] = self.seen.get(name, 0) + 1


def validate(kind: Any, body: dict[str, Any]) -> None:
    """Raise for a body that is not strictly of the type `kind`: a missing field, a wrong type, one that is unknown.

    `paused` is the one status that OpenAI's examples show and its type does not have.
    """
    items = body["data"] if body.get("object") == "list" else [body]
    for item in items:
        if item.get("object") == "fine_tuning.job":
            item["status"] = {"paused": "running"}.get(item["status"], item["status"])
    found = TypeAdapter(kind).validate_json(json.dumps(body), strict=True)
    for item in found.data if isinstance(found, StrictPage) else [found]:
        if type(item) in OWN:
            assert set(item.model_extra or {}) == OWN[type(item)], item.model_extra
            missing = set(type(item).model_fields) - item.model_fields_set
            assert not missing, f"{type(item).__name__} lacks {missing}"
