"""The reward `code_tests`: Python in the completion that must pass the row's tests, in a sandbox."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from pydantic import Field

from opensloth.rewards import sandbox
from opensloth.rewards.columns import value_of
from opensloth.rewards.failures import RowProblem
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Column, Params, Row

MAX_TESTS = 1000
MAX_CODE = 2**20
PARALLEL = min(4, os.cpu_count() or 1)
_BLOCK = re.compile(r"^[ \t]*```[ \t]*+(\w*+)[^\n]*+\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_LANGUAGES = {"python", "py", "python3"}


class CodeTestsParams(Params):
    """Where the tests are and what a run may take."""

    column: Column = "tests"
    """The column with the tests: Python with `assert`, one text or a list of them."""
    setup_column: Column | None = None
    """A column with Python that runs before the code (imports, classes); it may be empty in some rows."""
    partial: bool = False
    """Score the share of a list's tests that passed; else 1 only if all did."""
    timeout_s: float = Field(default=5.0, ge=0.1, le=30)
    """Seconds for the code and all of its tests together."""
    memory_mb: int = Field(default=256, ge=64, le=2048)
    """Memory of a process, in MiB of address space."""


def last_block(completion: str) -> str | None:
    """The last fenced block marked as Python, else the last fenced one without a language; None without either."""
    blocks: list[tuple[str, str]] = _BLOCK.findall(completion)
    marked = [code for language, code in blocks if language.lower() in _LANGUAGES]
    bare = [code for language, code in blocks if not language]
    return next(reversed(marked or bare), None)


def score_code(params: CodeTestsParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """1 where all tests pass (or their share, with `partial`), else 0."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(lambda pair: _score(params, *pair), zip(completions, rows, strict=True)))


def _score(params: CodeTestsParams, completion: str, row: Row) -> float:
    tests = tests_of(params, row)
    code = last_block(completion)
    if code is None or len(code) > MAX_CODE:
        return 0.0
    passed = sandbox.run_tests(code, tests, _limits(params), setup=setup_of(params, row)).passed
    return sum(passed) / len(passed) if params.partial else float(all(passed))


def tests_of(params: CodeTestsParams, row: Row) -> list[str]:
    """The row's tests; raises RowProblem."""
    value = value_of(row, params.column)
    tests = [value] if isinstance(value, str) else value
    if not isinstance(tests, list | tuple) or not tests or not all(isinstance(test, str) for test in tests):
        raise RowProblem(f"column `{params.column}` must be Python as text, or a list of texts, not empty")
    if len(tests) > MAX_TESTS:
        raise RowProblem(f"column `{params.column}` has {len(tests)} tests, more than {MAX_TESTS}")
    if not any(test.strip() for test in tests):
        raise RowProblem(f"column `{params.column}` is blank, so that any code would pass")
    return list(tests)


def setup_of(params: CodeTestsParams, row: Row) -> str:
    """What runs before the code; raises RowProblem."""
    setup = row.get(params.setup_column or "") or ""
    if not isinstance(setup, str):
        raise RowProblem(f"column `{params.setup_column}` must be Python as text")
    return setup


def _limits(params: CodeTestsParams) -> sandbox.Limits:
    return sandbox.Limits(timeout_s=params.timeout_s, memory_bytes=params.memory_mb * 2**20)


def tests_problem(params: CodeTestsParams, row: Row) -> str | None:
    """What keeps the row's tests from being run; a test that is no Python is found here."""
    try:
        for test in [setup_of(params, row), *tests_of(params, row)]:
            compile(test, "<test>", "exec")
    except RowProblem as problem:
        return str(problem)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"column `{params.column}` is no Python: {error}"
    return None


def check_sandbox(_params: CodeTestsParams) -> None:
    """Raises SandboxUnavailable where code cannot be shut off, before anything is scored."""
    _sandbox_works()


@lru_cache(maxsize=1)
def _sandbox_works() -> None:
    """As above; once it has worked it is not tried again before each batch."""
    try:
        outcome = sandbox.run_tests("answer = 42", ["assert answer == 42"], sandbox.Limits(timeout_s=10.0))
    except sandbox.SandboxUnavailable as problem:
        raise sandbox.SandboxUnavailable(f"{problem}; {sandbox.HINT}") from None
    if outcome.passed != (True,):
        raise sandbox.SandboxUnavailable(f"the sandbox does not run Python ({outcome.status}); {sandbox.HINT}")


def _time_for(params: CodeTestsParams, count: int) -> float:
    return -(-count // PARALLEL) * (params.timeout_s + 1.0)


register_reward(
    Reward(
        name="code_tests",
        description="1 if the completion's last Python block passes the row's tests, else 0. It runs with the standard "
        "library alone, without network, files or secrets, bounded in time and memory.",
        params=CodeTestsParams,
        score=score_code,
        columns=lambda params: (params.column,),
        optional_columns=lambda params: (params.setup_column,) if params.setup_column else (),
        check_row=tests_problem,
        prepare=check_sandbox,
        extra_time_s=_time_for,
    )
)
