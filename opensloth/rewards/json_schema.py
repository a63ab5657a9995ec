"""The reward `json_schema`: completions that are JSON and valid against a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from opensloth.rewards.columns import value_of
from opensloth.rewards.failures import RowProblem
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Column, Params, Row

MAX_SCHEMA = 64 * 1024
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


class JsonSchemaParams(Params):
    """The schema, or the column that holds one for each row."""

    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """A JSON Schema (draft 2020-12 unless `$schema` names another), at most 64 KiB; `$ref` only within itself."""
    column: Column | None = None
    """The column that holds each row's schema, as an object or as JSON text; instead of `schema`."""
    part: Literal["all", "fenced"] = "all"
    """Read the whole completion as JSON, or its last fenced block where it has one."""
    invalid_score: float = Field(default=0.0, ge=-1, le=1)
    """The score of a completion that is JSON but not valid."""

    @field_validator("schema_")
    @classmethod
    def _a_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        problem = None if schema is None else schema_problem(schema)
        if problem:
            raise ValueError(problem)
        return schema

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.schema_ is None) == (self.column is None):
            raise ValueError("set either `schema` or `column`")
        return self


def schema_problem(schema: Any) -> str | None:
    """What is wrong with a schema, or None."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA:
            return f"the schema is longer than {MAX_SCHEMA} characters"
        if not isinstance(schema, dict):
            return f"a schema is an object, not {type(schema).__name__}"
        outside = next((ref for ref in _references(schema) if not ref.startswith("#")), None)
        if outside is not None:
            return f"`$ref` must stay within the schema (begin with `#`), not {outside[:80]!r}"
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        return f"no valid JSON Schema: {error.message[:300]} at {error.json_path}"
    except (RecursionError, TypeError, ValueError, re.error) as error:
        return f"no valid JSON Schema: {error}"[:300]
    return None


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [ref for item in value for ref in _references(item)]
    if not isinstance(value, dict):
        return []
    keys = ("$ref", "$dynamicRef", "$recursiveRef")
    own = [value[key] for key in keys if isinstance(value.get(key), str)]
    return own + [ref for item in value.values() for ref in _references(item)]


def score_json_schema(params: JsonSchemaParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """1 for valid JSON, `invalid_score` for JSON that is not valid, 0 for what is no JSON."""
    fixed = None if params.schema_ is None else json.dumps(params.schema_)
    pairs = zip(completions, rows, strict=True)
    return [_score(params, completion, fixed or _row_schema(params, row)) for completion, row in pairs]


def _score(params: JsonSchemaParams, completion: str, schema: str) -> float:
    if params.part == "fenced":
        blocks = _FENCED.findall(completion)
        completion = blocks[-1] if blocks else completion
    try:
        value = json.loads(completion, parse_constant=_refuse)
        valid = _validator(schema).is_valid(value)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0 if valid else params.invalid_score


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for
    from referencing import Registry

    document = json.loads(schema)
    # An own registry: the default one would fetch unknown references from the network.
    return validator_for(document)(document, registry=Registry())


@lru_cache(maxsize=1024)
def _text_problem(text: str) -> str | None:
    try:
        return schema_problem(json.loads(text))
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"


def _row_schema(params: JsonSchemaParams, row: Row) -> str:
    column = params.column or ""
    value = value_of(row, column)
    text = value if isinstance(value, str) else json.dumps(value)
    problem = _text_problem(text)
    if problem:
        raise RowProblem(f"column `{column}`: {problem}")
    return text


def schema_column_problem(params: JsonSchemaParams, row: Row) -> str | None:
    """What is wrong with the row's own schema."""
    if params.column is None:
        return None
    try:
        _row_schema(params, row)
    except RowProblem as problem:
        return str(problem)
    return None


register_reward(
    Reward(
        name="json_schema",
        description="1 if the completion is JSON that is valid against a schema.",
        params=JsonSchemaParams,
        score=score_json_schema,
        columns=lambda params: () if params.column is None else (params.column,),
        check_row=schema_column_problem,
        item_timeout_s=2.0,
    )
)
