"""A job as a YAML file: read strictly, with the line of each field, and `--set a.b=c` on top."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from opensloth.remote.errors import Field, InvalidRequest


class SpecLoader(yaml.SafeLoader):
    """YAML 1.2's scalars: `5e-6` is a number and `no` is a word, as everybody expects; a key occurs once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises MarkedYAMLError for a key that is there twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(getattr(key, "value", ""))
        return super().construct_mapping(node, deep)


SpecLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", [*"tTfF"]),
    ("int", r"^[-+]?[0-9][0-9_]*$", [*"-+0123456789"]),
    ("float", r"^[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", [*"-+.0123456789"]),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    SpecLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
# YAML 1.1 would read 010 as eight.
SpecLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value.replace("_", "")))


@dataclass(frozen=True)
class SpecFile:
    """A job's spec, the folder that its paths are relative to, and the line of each field by dotted path."""

    path: Path
    spec: dict[str, Any]
    lines: dict[str, int]

    def line_of(self, path: str) -> int | None:
        """The line of a field, or of the nearest field around it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path.rpartition(".")[0]
        return None


def read_spec(path: Path, overrides: list[str] | None = None) -> SpecFile:
    """The spec in a file with `a.b=c` overrides applied; raises InvalidRequest that names the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise InvalidRequest(f"{path} cannot be read: {problem.strerror}.", code="no_such_file") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not text in UTF-8.", code="invalid_yaml") from None
    try:
        node = yaml.compose(text, Loader=SpecLoader)
        spec = yaml.load(text, Loader=SpecLoader)
    except yaml.YAMLError as problem:
        raise InvalidRequest(_yaml_message(path, problem), code="invalid_yaml") from None
    if not isinstance(spec, dict):
        raise InvalidRequest(f"{path} is not a job: it should have lines such as `dataset: rows.jsonl`.")
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines)
    for override in overrides or []:
        apply_override(spec, override)
    return SpecFile(path, spec, lines)


def apply_override(spec: dict[str, Any], override: str) -> None:
    """Sets one field, `training_args.learning_rate=1e-5`; the value is read as YAML; raises InvalidRequest."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        hint = "for example --set training_args.learning_rate=1e-5"
        raise InvalidRequest(f"--set {override!r} is not of the form field.name=value.", hint=hint)
    try:
        value = yaml.load(text, Loader=SpecLoader)
    except yaml.YAMLError:
        value = text
    target = spec
    for depth, key in enumerate(keys[:-1], start=1):
        inner = target.setdefault(key, {})
        if inner is None:
            inner = target[key] = {}
        if not isinstance(inner, dict):
            before = ".".join(keys[:depth])
            raise InvalidRequest("--set goes into a field that has no fields.", fields=[Field(before, "is a value")])
        target = inner
    target[keys[-1]] = value


def _yaml_message(path: Path, problem: yaml.YAMLError) -> str:
    mark = getattr(problem, "problem_mark", None)
    what = getattr(problem, "problem", None) or str(problem)
    if mark is None:
        return f"{path}: {what}"
    return f"{path}, line {mark.line + 1}, column {mark.column + 1}: {what}"


def _collect_lines(node: yaml.Node | None, path: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            lines[inner] = key.start_mark.line + 1
            _collect_lines(value, inner, lines)
