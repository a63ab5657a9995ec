"""Fetches one split of a dataset of the hub as one file; the files of the repository are read, never code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from opensloth.datasets.hub_files import Choice, choose_files
from opensloth.datasets.hub_names import HubDataset
from opensloth.datasets.merge import merge_isolated
from opensloth.errors import TooLarge
from opensloth.hub import Hub, Repository
from opensloth.settings import Settings


@dataclass(frozen=True)
class Found:
    """What a name stands for at the moment: files of one commit."""

    hub: Hub
    repository: Repository
    choice: Choice


def find(wanted: HubDataset, token: str | None, max_bytes: int) -> Found:
    """Ask the hub. Raises HubFailed, NotInRepository, InvalidDataset for what is not clear, and TooLarge."""
    hub = Hub(token)
    repository = hub.repository("dataset", wanted.id, wanted.revision)
    choice = choose_files(repository, wanted)
    size = sum(repository.files[path] for path in choice.files)
    if size > max_bytes:
        raise TooLarge(
            f"the files of {wanted.rows} have {size:,} bytes, more than the {max_bytes:,} that this server takes",
            code="file_too_large",
            hint="name a smaller split, folder or file",
        )
    return Found(hub, repository, choice)


def fetch(found: Found, folder: Path, settings: Settings) -> Path:
    """The rows of what was found as one file in `folder`, which is empty; raises as `find` and the reading of rows."""
    paths = [found.hub.fetch(found.repository, path, folder / "files") for path in found.choice.files]
    if len(paths) == 1:
        return paths[0]
    merged = folder / f"merged.{'parquet' if found.choice.family == 'parquet' else 'jsonl'}"
    merge_isolated(paths, merged, settings.max_upload_bytes, settings.max_line_bytes)
    return merged


def file_name(found: Found, path: Path) -> str:
    """What the file is called: `gsm8k-main-train.parquet`."""
    choice = found.choice
    name = found.repository.id.rpartition("/")[2]
    if choice.part in choice.files:
        return f"{name}-{PurePosixPath(choice.files[0]).name}"
    ending = "".join(suffix for suffix in path.suffixes[-2:] if suffix.isascii() and not suffix[1:].isdigit())
    parts = [name, *([choice.part.replace("/", "-")] if choice.part else []), *([choice.split] if choice.split else [])]
    return "-".join(parts) + ending
