"""Source of this package as a script carries it."""

from __future__ import annotations

import ast
from pathlib import Path


def body(file: Path) -> str:
    """A module's source behind its docstring and imports."""
    tree, text = _parsed(file)
    statements = [node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(text.splitlines()[_first_line(statements[0]) - 1 :]).strip("\n")


def function(file: Path, name: str) -> str:
    """The source of one function or class of a module."""
    tree, text = _parsed(file)
    found = next(node for node in tree.body if getattr(node, "name", None) == name)
    return "\n".join(text.splitlines()[_first_line(found) - 1 : found.end_lineno])


def imports(file: Path) -> tuple[list[str], list[str]]:
    """A module's imports from outside this package, as source, and the modules of the package that it imports."""
    tree, _ = _parsed(file)
    outside, inside = [], []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opensloth."):
            inside.append(str(node.module))
        elif isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "__future__"):
            outside.append(ast.unparse(node))
    return outside, inside


def _parsed(file: Path) -> tuple[ast.Module, str]:
    text = file.read_text()
    return ast.parse(text), text


def _first_line(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", [])
    return int(min([node.lineno, *(decorator.lineno for decorator in decorators)]))  # type: ignore[attr-defined]
