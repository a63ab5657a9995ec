"""How a dataset of the hub is spelled: `org/name@revision:config[split]`, of which only `org/name` must be there."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:@(?P<revision>[A-Za-z0-9][\w.+-]*(?:/[\w.+-]+)*))?"
    r"(?::(?P<part>[\w+-][\w.+-]*(?:/[\w.+-]+)*))?"
    r"(?:\[(?P<split>\w[\w.-]{0,63})\])?",
    re.ASCII,
)
DATA_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz", ".zst")
_COMMIT = re.compile(r"[0-9a-f]{40}")
MOST_CHARACTERS = 400
SPELLING = "org/name, org/name:config[split] or org/name@revision:config[split]"


@dataclass(frozen=True)
class HubDataset:
    """One split of one part of a dataset of the hub.

    `part` is a configuration of its card, or a folder or a file of its repository; None and `split` None leave the
    choice to the card and to the names of the files.
    """

    id: str
    revision: str | None = None
    part: str | None = None
    split: str | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit, so that it stands for the same rows for ever."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def rows(self) -> str:
        """The name without its revision, which says what files of a commit are meant."""
        return f"{self.id}{f':{self.part}' if self.part else ''}{f'[{self.split}]' if self.split else ''}"


def parse_hub_dataset(text: str) -> HubDataset | None:
    """What `text` names; None if it is not the name of a dataset of the hub, as `data/train.jsonl`, which is a path."""
    found = _NAME.fullmatch(text) if len(text) <= MOST_CHARACTERS else None
    if found is None or ".." in text or found["id"].endswith(DATA_ENDINGS):
        return None
    return HubDataset(found["id"], found["revision"], found["part"], found["split"])
