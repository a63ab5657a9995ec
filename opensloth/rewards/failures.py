"""How a reward fails: by name, so that a job's error says which of its rewards it was and why."""

from __future__ import annotations

from typing import ClassVar

from opensloth.errors import OpenSlothError


class RewardFailed(OpenSlothError):
    """A reward raised, hung, or returned something that is no finite number.

    `index` is its place in `reward_functions` (0-based), `row` the place in the batch (0-based) where that is known.
    """

    code: ClassVar[str] = "reward_failed"

    def __init__(self, name: str, index: int, why: str, *, row: int | None = None, hint: str | None = None) -> None:
        at = "" if row is None else f", row {row} of the batch"
        super().__init__(f"reward {name!r} (reward_functions[{index}]{at}): {why}", hint=hint)
        self.name = name
        self.index = index
        self.why = why
        self.row = row


class RowProblem(Exception):
    """A row does not have what a reward reads; the message says which column and what was expected of it."""


class ItemHopeless(Exception):
    """One completion cannot be scored, by its own fault; it gets 0."""


SAMPLE = "the completion: "
"""How the failure of a strict runner begins that is the completion's fault."""


class SampleProblem(Exception):
    """A completion does not have what a grader reads, or makes it fail; it scores 0."""


_strict: list[bool] = []


def be_strict() -> None:
    """From now on this process raises SampleProblem where it would score 0: for somebody who tries a grader."""
    _strict.append(True)


def zero_for(problem: SampleProblem) -> float:
    """The score of a completion at fault."""
    if _strict:
        raise problem
    return 0.0
