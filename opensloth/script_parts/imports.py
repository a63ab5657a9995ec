"""The import block of a script: no more than its code uses."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable

STATEMENT = re.compile(r"from ([\w.]+) import (.+)|import (.+)")


def import_block(code: str, statements: Iterable[str]) -> str:
    """The statements (of one name each) that bind a name which `code` uses, sorted: the standard library first."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    own: dict[bool, set[str]] = {True: set(), False: set()}
    names: dict[bool, dict[str, set[str]]] = {True: defaultdict(set), False: defaultdict(set)}
    for statement in statements:
        module, name, whole = re.fullmatch(STATEMENT, statement).groups()  # type: ignore[union-attr]
        if bound(statement) not in used or ("." in (whole or "") and whole not in code):
            continue
        standard = (module or whole).partition(".")[0] in sys.stdlib_module_names
        if module is None:
            own[standard].add(f"import {whole}")
        else:
            names[standard][module].add(name)
    blocks = []
    for standard in (True, False):
        lines = sorted(own[standard])
        lines += [_from(module, some) for module, some in sorted(names[standard].items())]
        blocks.append("\n".join(lines))
    return "\n\n".join(filter(None, blocks))


def bound(statement: str) -> str:
    """The name that an import statement of one name binds."""
    last = statement.rpartition(" as ")[2] if " as " in statement else statement.rpartition("import ")[2]
    return last.partition(".")[0]


def outside_packages(code: str) -> set[str]:
    """The top-level modules that `code` imports anywhere, those of the standard library left out."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found - sys.stdlib_module_names


def _from(module: str, names: set[str]) -> str:
    line = f"from {module} import {', '.join(sorted(names))}"
    if len(line) <= 120:
        return line
    inner = "".join(f"    {name},\n" for name in sorted(names))
    return f"from {module} import (\n{inner})"
