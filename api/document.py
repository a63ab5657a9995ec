"""What /docs shows beyond what FastAPI finds: the schemas of the bodies (bodies.py), and the shape of every error."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from api.bodies import REF_TEMPLATE, fill_schemas


class ProblemField(BaseModel):
    """What is wrong with one field; `row` is the 1-based row of a dataset file."""

    path: str
    message: str
    code: str
    row: int | None


class ProblemAsOpenAI(BaseModel):
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
    error: ProblemAsOpenAI


_PROBLEM = {"application/problem+json": {"schema": {"$ref": REF_TEMPLATE.format(model="Problem")}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is refused", "content": _PROBLEM},
    "5XX": {"description": "The server cannot answer", "content": _PROBLEM},
}
"""The answers that every route of `/v1` may give beside its own."""


def complete(app: FastAPI) -> None:
    """Let the document of `app` have the schemas that its routes refer to."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            named = fill_schemas(Problem)
            schemas = made()["components"]["schemas"]
            for name, schema in named.items():
                if schemas.setdefault(name, schema) != schema:
                    raise RuntimeError(f"two schemas are called {name}")
        return made()

    app.openapi = openapi  # type: ignore[method-assign]
