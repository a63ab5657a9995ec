"""The rewards by name: what each is called, takes, reads and computes; a new reward is one `register_reward`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from opensloth.rewards.spec import Params, Row

P = TypeVar("P", bound=Params)


def _no_columns(_params: Any) -> tuple[str, ...]:
    return ()


def _row_fits(_params: Any, _row: Row) -> str | None:
    return None


def _nothing(_params: Any) -> None:
    return None


def _no_more(_params: Any, _count: int) -> float:
    return 0.0


@dataclass(frozen=True)
class Reward(Generic[P]):
    """One kind of reward.

    `score(params, completions, rows)` gives a float for each completion; `rows[i]` is the dataset row (with `prompt`)
    that `completions[i]` answers. It runs in a helper process, which imports the module that defines it. It raises
    RowProblem where a row is at fault, ItemHopeless (only if `item_timeout_s`) where a completion is.
    """

    name: str
    description: str
    params: type[P]
    score: Callable[[P, Sequence[str], Sequence[Row]], list[float]]
    columns: Callable[[P], tuple[str, ...]] = _no_columns
    """The dataset columns that it reads under these parameters."""
    optional_columns: Callable[[P], tuple[str, ...]] = _no_columns
    """Columns that it reads where a row has them; the dataset must have them, a row need not."""
    reads_all: bool = False
    """Whether it is given every column of the row and not only `columns`."""
    check_row: Callable[[P, Row], str | None] = _row_fits
    """What is wrong with a row that has the columns, or None; cheap, since a whole dataset passes through it."""
    prepare: Callable[[P], None] = _nothing
    """Slow imports, done before the clock of the first completion starts."""
    item_timeout_s: float | None = None
    """Seconds for one completion; where set, completions are scored one by one."""
    hopeless_is_zero: bool = False
    """Whether a completion that overruns `item_timeout_s` scores 0 (its own fault) or fails the reward."""
    extra_time_s: Callable[[P, int], float] = _no_more
    """Seconds beyond the policy's limit that a batch of so many completions may take."""


reward_map: dict[str, Reward[Any]] = {}


def register_reward(reward: Reward[Any]) -> Reward[Any]:
    """Make a reward known; an existing one of that name is replaced."""
    reward_map[reward.name] = reward
    return reward
