"""A rewards file as an entry like those of the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ConfigDict

from opensloth.rewards.files import FileReward
from opensloth.rewards.registry import Reward
from opensloth.rewards.spec import Params, Row


class FileParams(Params):
    """Whatever the file's function takes."""

    model_config = ConfigDict(extra="allow")


_loaded: dict[Path, tuple[str, Callable[..., list[float]]]] = {}
"""By file, its source as it was run and its function: what a file loads or counts stays from batch to batch."""


def _function(file: FileReward) -> Callable[..., list[float]]:
    """The file's function, run anew only if its source is another one than before."""
    source, function = _loaded.get(file.path, (None, None))
    if function is None or source != file.source:
        _loaded.pop(file.path, None)  # what the old one holds goes before the new one loads the same
        function = file.load()
        _loaded[file.path] = file.source, function
    return function


def as_reward(file: FileReward) -> Reward[FileParams]:
    """The reward that `file` defines; its source runs when it first scores, in the helper process."""

    def prepare(_params: FileParams) -> None:
        _function(file)

    def score(params: FileParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
        return _function(file)(list(completions), [dict(row) for row in rows], **(params.model_extra or {}))

    return Reward(
        name=f"file:{file.name}",
        description=file.description,
        params=FileParams,
        score=score,
        columns=lambda _params: file.columns,
        reads_all=True,
        prepare=prepare,
    )
