"""What /docs shows of the bodies that routes read by hand, so that every mistake in one is named.

Schemas are made with the document: a start of the service does without.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

REF_TEMPLATE = "#/components/schemas/{model}"

_bodies: list[tuple[type[BaseModel], dict[str, Any]]] = []
"""The model of each body and its schema, empty until the document is made."""


def body_of(model: type[BaseModel], examples: dict[str, Any] | None = None, *, required: bool = True) -> dict[str, Any]:
    """The `openapi_extra` of a route; `examples` are OpenAPI's, by name."""
    content: dict[str, Any] = {"schema": {}}
    _bodies.append((model, content["schema"]))
    if examples:
        content["examples"] = examples
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def json_body(model: type[BaseModel], *, required: bool = True, **examples: Any) -> dict[str, Any]:
    """The same; each example is a value by its name."""
    shown = {name: {"summary": name.replace("_", " "), "value": value} for name, value in examples.items()}
    return body_of(model, shown, required=required)


def fill_schemas(*more: type[BaseModel]) -> dict[str, Any]:
    """Let each body refer to its schema; returns these schemas and those of `more` models, by name."""
    modes: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {
        (model, "validation"): None for model in (*more, *(model for model, _ in _bodies))
    }
    references, named = models_json_schema(list(modes), ref_template=REF_TEMPLATE)
    for model, body in _bodies:
        body.update(references[model, "validation"])
    schemas: dict[str, Any] = named["$defs"]
    return schemas
