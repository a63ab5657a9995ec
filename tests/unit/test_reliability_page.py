"""The promises in docs/reliability.md are held by tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def named() -> set[tuple[str, str]]:
    """Every `FILE::TEST` of the page."""
    return set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8")))


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_is_there() -> None:
    missing = [(file, test) for file, test in named() if test not in names_in(ROOT / "tests" / file)]
    assert not missing


def test_every_promise_names_a_test() -> None:
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "---" not in line
    ]
    promises = [row for row in rows if "held by" not in row]
    assert len(promises) > 20
    assert not [row for row in promises if "::test_" not in row]
