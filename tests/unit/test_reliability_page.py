"""What docs/reliability.md and docs/security.md promise is held by tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("reliability.md", "security.md")]


def named(page: Path) -> set[tuple[str, str]]:
    """Every `FILE::TEST` of the page."""
    return set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", page.read_text(encoding="utf-8")))


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_the_page_names_is_there(page: Path) -> None:
    missing = [(file, test) for file, test in named(page) if test not in names_in(ROOT / "tests" / file)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_promise_names_a_test(page: Path) -> None:
    rows = [
        line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "---" not in line
    ]
    promises = [row for row in rows if "held by" not in row]
    assert len(promises) > 20
    assert not [row for row in promises if "::test_" not in row]
