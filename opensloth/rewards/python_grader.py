"""The reward `python`: OpenAI's Python grader, `grade(sample, item)`, in the sandbox, where an admin allows it."""

from __future__ import annotations

import ast
import json
import logging
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import Field, field_validator

from opensloth.rewards import sandbox
from opensloth.rewards.code_tests import PARALLEL, check_sandbox
from opensloth.rewards.failures import RowProblem, SampleProblem, zero_for
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Params, Row

log = logging.getLogger(__name__)

FUNCTION = "grade"
MAX_SOURCE = 256 * 1024
NAME = "python"
PACKAGES = ("jsonschema", "numpy", "pydantic", "rapidfuzz", "sympy", "yaml")
"""What a grader may import beside the standard library: those of OpenAI's image that every host of a service has."""


class PythonParams(Params):
    """The code, and what one call of it may take."""

    source: str = Field(min_length=1, max_length=MAX_SOURCE)
    """Python with `def grade(sample, item) -> float`; it may import the standard library and `PACKAGES`."""
    timeout_s: float = Field(default=30.0, ge=0.1, le=120)
    """Seconds for one completion, what the code imports included; one that takes longer scores 0."""
    memory_mb: int = Field(default=512, ge=64, le=2048)
    """Memory of the process, in MiB of address space."""

    @field_validator("source")
    @classmethod
    def _defines_grade(cls, source: str) -> str:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"it is no Python: {error}") from None
        defined = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == FUNCTION]
        if not defined:
            raise ValueError("it defines no `def grade(sample, item)`")
        taken = defined[-1].args
        if len(taken.posonlyargs) + len(taken.args) < 2 and taken.vararg is None:
            raise ValueError("`grade` must take `sample` and `item`")
        if missing := sorted(_imported(tree) - sys.stdlib_module_names - set(PACKAGES)):
            raise ValueError(
                f"it imports {', '.join(f'`{name}`' for name in missing)}, which graders do not have here; "
                f"they have Python's standard library and {', '.join(PACKAGES)}"
            )
        return source


def _imported(tree: ast.AST) -> set[str]:
    """The top-level modules that must be there for the code to run: not those that it tries to import."""
    found: set[str] = set()
    left = [tree]  # not by recursion: a long sum is a tree deeper than Python's stack
    while left:
        node = left.pop()
        if isinstance(node, ast.Try):
            left += [*node.orelse, *node.finalbody]
        elif isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level if node.level else str(node.module).partition(".")[0])
        else:
            left += ast.iter_child_nodes(node)
    return found


def sample_of(completion: str) -> dict[str, Any]:
    """What a grader is told of a completion, as OpenAI does."""
    try:
        parsed = json.loads(completion)
    except (ValueError, RecursionError):
        parsed = None
    message = {"role": "assistant", "content": completion}
    return {
        "output_text": completion,
        "output_json": parsed,
        "output_tools": [],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


def grade(params: PythonParams, completion: str, row: Row) -> float:
    """The score of one completion; raises RowProblem for code that does not load, SampleProblem where it fails."""
    limits = sandbox.Limits(timeout_s=params.timeout_s, memory_bytes=params.memory_mb * 2**20)
    try:
        score = sandbox.call(params.source, FUNCTION, [sample_of(completion), dict(row)], limits)
    except sandbox.CallFailed as failed:
        if not failed.loads:
            raise RowProblem(f"the code of the grader does not load: {failed}") from None
        raise SampleProblem(str(failed)) from None
    if not math.isfinite(score):
        raise SampleProblem(f"it returned {score}")
    return score


def score_python(params: PythonParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """What `grade` returns for each; 0 where it fails, as OpenAI has it, which the log says once a batch."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        found = list(pool.map(lambda pair: _grade(params, *pair), zip(completions, rows, strict=True)))
    failures = [score for score in found if isinstance(score, SampleProblem)]
    if failures:
        log.warning("the python grader failed on %d of %d, which score 0: %s", len(failures), len(found), failures[0])
    return [zero_for(score) if isinstance(score, SampleProblem) else score for score in found]


def _grade(params: PythonParams, completion: str, row: Row) -> float | SampleProblem:
    try:
        return grade(params, completion, row)
    except SampleProblem as problem:
        return problem


def time_for(params: PythonParams, count: int) -> float:
    """Seconds that a batch of so many completions may take."""
    return -(-count // PARALLEL) * (params.timeout_s + 1.0)


register_reward(
    Reward(
        name=NAME,
        description="What `grade(sample, item)` of the job's own Python returns (OpenAI's grader). It has the "
        f"standard library and {', '.join(PACKAGES)}, no network, files or secrets; an admin allows it.",
        params=PythonParams,
        score=score_python,
        reads_all=True,
        prepare=check_sandbox,
        extra_time_s=time_for,
    )
)
