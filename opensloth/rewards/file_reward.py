"""A rewards file as an entry like those of the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import ConfigDict

from opensloth.rewards.files import FileReward
from opensloth.rewards.registry import Reward
from opensloth.rewards.spec import Params, Row


class FileParams(Params):
    """Whatever the file's function takes."""

    model_config = ConfigDict(extra="allow")


def as_reward(file: FileReward) -> Reward[FileParams]:
    """The reward that `file` defines; its source runs when it first scores, in the helper process."""
    loaded: list[Callable[..., list[float]]] = []

    def prepare(_params: FileParams) -> None:
        if not loaded:
            loaded.append(file.load())

    def score(params: FileParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
        prepare(params)
        return loaded[0](list(completions), [dict(row) for row in rows], **(params.model_extra or {}))

    return Reward(
        name=f"file:{file.name}",
        description=file.description,
        params=FileParams,
        score=score,
        columns=lambda _params: file.columns,
        reads_all=True,
        prepare=prepare,
    )
