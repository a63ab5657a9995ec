"""A module's source taken apart: what it defines, and what it imports from where."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

REMARK = re.compile(r"  # (?:type: ignore|noqa|fmt: skip).*$", re.MULTILINE)
"""Comments for tools that look at this package."""

Edit = tuple[int, int, str, str]
"""In a definition: line from 1, byte of the line, what stands there, and what is to stand there."""


@dataclass
class Definition:
    """A function, class or constant with the comment above and the text below it; `first` is its line."""

    names: tuple[str, ...]
    tree: ast.Module
    text: str
    first: int
    repeated: bool = False

    @property
    def shape(self) -> str:
        """What two definitions of the same have in common."""
        return ast.dump(self.tree.body[0])

    def replaced(self, text: str) -> Definition:
        """Other source in the same place."""
        return Definition(self.names, ast.parse(text), text, self.first)

    def render(self, name_of: Callable[[str, str], str], module: Module) -> str:
        """The source with the names that `name_of` a module's name gives."""
        edits = [*self._of_nodes(name_of, module), *self._of_itself(name_of, module)]
        lines = self.text.splitlines()
        for line, start, old, new in sorted(set(edits), reverse=True):
            raw, end = lines[line - 1].encode(), start + len(old.encode())
            if raw[start:end].decode() != old:
                raise ValueError(f"{module.name} uses {old} where it cannot be renamed")
            lines[line - 1] = (raw[:start] + new.encode() + raw[end:]).decode()
        return REMARK.sub("", "\n".join(lines))

    def _of_nodes(self, name_of: Callable[[str, str], str], module: Module) -> Iterable[Edit]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                other, attribute = module.inside.get(node.value.id, ("", ""))
                if other and attribute is None:
                    yield node.lineno, node.col_offset, f"{node.value.id}.{node.attr}", name_of(other, node.attr)
            elif isinstance(node, ast.Name):
                new = node.id
                if node.id in module.definitions:
                    new = name_of(module.name, node.id)
                elif (found := module.inside.get(node.id)) and found[1] is not None:
                    new = name_of(found[0], found[1])
                if new != node.id:
                    yield node.lineno, node.col_offset, node.id, new

    def _of_itself(self, name_of: Callable[[str, str], str], module: Module) -> Iterable[Edit]:
        node = self.tree.body[0]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            new = name_of(module.name, node.name)
            start = len("def " if isinstance(node, ast.FunctionDef) else "class ")
            if new != node.name:
                yield node.lineno, start, node.name, new


@dataclass
class Module:
    """One module: its definitions by name, imports from this package, and those from others as statements.

    `inside` maps a name to a module and what it is called there, None where it is the module itself.
    """

    name: str
    purpose: str
    definitions: dict[str, Definition] = field(default_factory=dict)
    inside: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)

    def refuse_locals(self, name: str, definitions: Iterable[Definition]) -> None:
        """Raises ValueError where something in a function has the name of a definition that gets another one."""
        for found in definitions:
            for node in ast.walk(found.tree):
                stored = isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
                own = found.names == (name,) and stored
                if (stored and not own) or (isinstance(node, ast.arg) and node.arg == name):
                    raise ValueError(f"{self.name} uses {name} for something else")


@lru_cache(maxsize=128)
def file_text(name: str) -> str:
    """The source of a module."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ValueError(f"there is no source of {name}")
    return Path(found.origin).read_text()


def load(name: str) -> Module:
    """A module's source, taken apart anew; raises ValueError where there is none."""
    text = file_text(name)
    tree, lines = ast.parse(text), text.splitlines()
    module = Module(name, (ast.get_docstring(tree) or name).splitlines()[0])
    before: ast.stmt | None = None
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _add_import(module, node)
        elif isinstance(node, ast.If):  # TYPE_CHECKING
            for inner in node.body:
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    _add_import(module, inner)
        elif names := _names(node):
            last = node.end_lineno or node.lineno
            found = Definition(names, ast.Module([], []), "", _first_line(node, lines))
            found.text = "\n".join(lines[found.first - 1 : last])
            module.definitions |= dict.fromkeys(names, found)
        elif before is not None and _is_text(node) and (names := _names(before)):
            documented = module.definitions[names[0]]
            documented.text = "\n".join(lines[documented.first - 1 : node.end_lineno])
        before = node
    for found in module.definitions.values():
        found.tree = ast.parse(found.text)
    return module


def defined_in(code: str) -> set[str]:
    """The names that `code` binds outside of functions and classes."""
    return {name for node in ast.parse(code).body for name in _names(node)}


def _names(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return tuple(inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _add_import(module: Module, node: ast.Import | ast.ImportFrom) -> None:
    source = node.module if isinstance(node, ast.ImportFrom) else None
    for alias in node.names:
        bound = alias.asname or alias.name.partition(".")[0]
        if source == "__future__":
            continue
        if source is not None and source.partition(".")[0] == "opensloth":
            whole = f"{source}.{alias.name}"
            module.inside[bound] = (whole, None) if _is_module(whole) else (source, alias.name)
            continue
        stated = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
        module.outside[bound] = f"import {stated}" if source is None else f"from {source} import {stated}"


@lru_cache(maxsize=1024)
def _is_module(name: str) -> bool:
    file = Path(__file__).parents[2].joinpath(*name.split("."))
    return file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()


def _first_line(node: ast.stmt, lines: list[str]) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    return first
