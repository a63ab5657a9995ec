"""What /docs shows beyond what FastAPI finds: the bodies that routes read by hand, and the shape of every error."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from opensloth.jobs.command_spec import CommandSpec
from opensloth.jobs.export_spec import ExportSpec
from opensloth.jobs.spec import JobSpec

REF_TEMPLATE = "#/components/schemas/{model}"


class ProblemField(BaseModel):
    """What is wrong with one field; `row` is the 1-based row of a dataset file."""

    path: str
    message: str
    code: str
    row: int | None


class OpenAIError(BaseModel):
    """The same error as clients of OpenAI read it."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """An error (RFC 9457): `code` is for programs, `detail` and `hint` for people, `errors` names each field."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "type": "urn:opensloth:error:invalid_input",
                "title": "The input is not valid",
                "status": 422,
                "detail": "training_args.learning_rat: unknown; did you mean learning_rate?",
                "code": "invalid_input",
                "errors": [
                    {
                        "path": "training_args.learning_rat",
                        "message": "unknown; did you mean learning_rate?",
                        "code": "unknown_field",
                        "row": None,
                    }
                ],
                "hint": None,
                "error": {
                    "message": "training_args.learning_rat: unknown; did you mean learning_rate?",
                    "type": "invalid_request_error",
                    "param": "training_args.learning_rat",
                    "code": "invalid_input",
                },
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemField]
    hint: str | None
    error: OpenAIError


_PROBLEM = {"application/problem+json": {"schema": {"$ref": REF_TEMPLATE.format(model="Problem")}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is refused", "content": _PROBLEM},
    "5XX": {"description": "The server cannot answer", "content": _PROBLEM},
}
"""The answers that every route of `/v1` may give beside its own."""


def complete(app: FastAPI) -> None:
    """Let the document of `app` have the schemas that its routes refer to by name."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
                (model, "validation") for model in (Problem, JobSpec, ExportSpec, CommandSpec)
            ]
            _, named = models_json_schema(modes, ref_template=REF_TEMPLATE)
            document = made()
            document["components"]["schemas"].update(named["$defs"])
            _lift(document["paths"], document["components"]["schemas"])
        return made()

    app.openapi = openapi  # type: ignore[method-assign]


def _lift(part: Any, schemas: dict[str, Any]) -> None:
    """Move what the schema of a single route defines for itself to where its references are looked up."""
    if isinstance(part, list):
        for one in part:
            _lift(one, schemas)
    if not isinstance(part, dict):
        return
    for name, schema in part.pop("$defs", {}).items():
        _lift(schema, schemas)
        if schemas.setdefault(name, schema) != schema:
            raise RuntimeError(f"two schemas are called {name}")
    if str(reference := part.get("$ref", "")).startswith("#/$defs/"):
        part["$ref"] = REF_TEMPLATE.format(model=reference.removeprefix("#/$defs/"))
    for one in part.values():
        _lift(one, schemas)
