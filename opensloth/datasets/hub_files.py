"""Which files of a repository are one split of a dataset: by its card, else by the names, as `datasets` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Literal

from opensloth.datasets.compression import plain_name
from opensloth.datasets.hub_names import HubDataset
from opensloth.errors import InvalidDataset
from opensloth.hub import Repository

Family = Literal["parquet", "json", "csv"]

FAMILIES: dict[str, Family] = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
}
_ABOUT = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"}
"""Files that describe a dataset and hold no rows."""
_SHARDED = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_WORD = re.compile(r"[A-Za-z]+")
_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHOWN = 10


class NotInRepository(InvalidDataset):
    """The repository has no such configuration, split or file."""

    code = "dataset_not_found"


@dataclass(frozen=True)
class Choice:
    """The files of one split, all of one family, in the order of their rows."""

    files: list[str]
    family: Family
    part: str | None
    split: str | None


def choose_files(repository: Repository, wanted: HubDataset) -> Choice:
    """The files that `wanted` stands for. Raises NotInRepository, and InvalidDataset where it may be several things."""
    files = sorted(path for path in repository.files if _has_rows(path))
    if not files:
        raise NotInRepository(
            f"{wanted.id} has no Parquet, JSONL, JSON or CSV files",
            hint=f"no code of a dataset is run; the hub may have converted it: {wanted.id}@refs/convert/parquet",
        )
    if wanted.part in files:
        if wanted.split is not None:
            raise InvalidDataset(f"{wanted.part} is a file, which has no splits", hint=f"leave out [{wanted.split}]")
        return _choice(wanted, [str(wanted.part)], wanted.part, None)
    configurations = _configurations(repository.card)
    part = wanted.part or _default(wanted, configurations)
    if part in configurations:
        splits = {
            split: [path for path in files if any(_matches(path, pattern) for pattern in patterns)]
            for split, patterns in configurations[part].items()
        }
        if "" in splits:
            # A configuration that only names a folder.
            splits = _by_names(splits[""], wanted.split)
    else:
        inside = [path for path in files if part is None or path.startswith(f"{part}/")]
        if not inside:
            raise NotInRepository(_nothing(wanted, "part", wanted.part, configurations or _folders(files)))
        splits = _by_names(inside, wanted.split)
    split = wanted.split or _default_split(wanted, splits)
    if not splits.get(split):
        raise NotInRepository(_nothing(wanted, "split", split, [name for name, found in splits.items() if found]))
    return _choice(wanted, splits[split], part, split)


def _choice(wanted: HubDataset, files: list[str], part: str | None, split: str | None) -> Choice:
    """Raises InvalidDataset where the same rows could be there twice, in two formats."""
    families = {_family(path) for path in files}
    stems = {_stem(path) for path in files}
    if len(families) > 1 or len(stems) < len(files):
        raise InvalidDataset(
            f"{wanted.id} has this data in several formats: {_listed(files)}",
            hint=f"name one file or folder, as {wanted.id}:{files[0]}",
        )
    return Choice(files, families.pop(), part, split)


def _configurations(card: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """The card's configurations: the patterns of each split; the split "" stands for all that a folder has."""
    found: dict[str, dict[str, list[str]]] = {}
    listed = card.get("configs")
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("config_name"), str):
            continue
        folder = str(entry.get("data_dir") or "").strip("./")
        data = entry.get("data_files")
        splits: dict[str, list[str]] = {}
        if data is None:
            splits[""] = [f"{folder}/**" if folder else "**"]
        for split, path in _named_files(data):
            splits.setdefault(split, []).append(f"{folder}/{path}" if folder else path)
        found[entry["config_name"]] = splits
    return found


def _named_files(data: Any) -> Iterable[tuple[str, str]]:
    """(split, pattern) for each of the forms that a card may have them in."""
    if isinstance(data, dict):
        yield from ((str(split), path) for split, paths in data.items() for path in _texts(paths))
    elif isinstance(data, list):
        for entry in data:
            if isinstance(entry, dict) and isinstance(entry.get("split"), str):
                yield from ((entry["split"], path) for path in _texts(entry.get("path")))
        yield from (("train", path) for path in _texts(data))
    else:
        yield from (("train", path) for path in _texts(data))


def _texts(value: Any) -> list[str]:
    """A text, or the texts of a list."""
    listed = value if isinstance(value, list) else [value]
    return [text for text in listed if isinstance(text, str)]


def _matches(path: str, glob: str) -> bool:
    """Whether a card's pattern means the path: `*` stays in a folder, `**` is any folders."""
    return _parts_match(path.split("/"), glob.removeprefix("./").strip("/").split("/"))


def _parts_match(parts: list[str], globs: list[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        rest = globs[1:] or ["*"]
        return any(_parts_match(parts[skipped:], rest) for skipped in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _parts_match(parts[1:], globs[1:])


def _default(wanted: HubDataset, configurations: dict[str, Any]) -> str | None:
    """The configuration that is meant where none is named; raises InvalidDataset where that is not clear."""
    if not configurations or len(configurations) == 1:
        return next(iter(configurations), None)
    if "default" in configurations:
        return "default"
    names = list(configurations)
    raise InvalidDataset(
        f"{wanted.id} has {len(names)} configurations: {_listed(names)}",
        hint=f"name one, as {wanted.id}:{names[0]}",
    )


def _default_split(wanted: HubDataset, splits: dict[str, list[str]]) -> str:
    names = [name for name, files in splits.items() if files]
    if "train" in names or not names:
        return "train"
    if len(names) == 1:
        return names[0]
    raise InvalidDataset(
        f"{wanted.id} has no split `train`, but {_listed(names)}", hint=f"name one, as {wanted.rows}[{names[0]}]"
    )


def _by_names(files: list[str], split: str | None) -> dict[str, list[str]]:
    """Splits by the names of folders and files; where none has a split's name, all of them are `train`."""
    if split is not None:
        exact = [
            path for path in files if split in (_shards_of(path), *PurePosixPath(path).parts[:-1], _stem_name(path))
        ]
        if exact:
            return {split: exact}
    splits: dict[str, list[str]] = {}
    for path in files:
        splits.setdefault(_split_in(path) or "", []).append(path)
    unnamed = splits.pop("", [])
    return splits or {"train": unnamed}


def _split_in(path: str) -> str | None:
    """The split that a path speaks of: its shards', else by a word of the innermost folder with one, or of the file."""
    sharded = _shards_of(path)
    if sharded is not None:
        return sharded
    *folders, _ = PurePosixPath(path).parts
    return next((found for part in (*reversed(folders), _stem_name(path)) if (found := _by_word(part))), None)


def _by_word(text: str) -> str | None:
    words = {word.lower() for word in _WORD.findall(text)}
    return next((split for split, known in _KEYWORDS.items() if words & set(known)), None)


def _shards_of(path: str) -> str | None:
    found = _SHARDED.fullmatch(_stem_name(path))
    return found["split"] if found else None


def _has_rows(path: str) -> bool:
    parts = PurePosixPath(path).parts
    if any(part.startswith((".", "__")) for part in parts) or parts[-1] in _ABOUT:
        return False
    return PurePosixPath(plain_name(path)).suffix.lower() in FAMILIES


def _family(path: str) -> Family:
    return FAMILIES[PurePosixPath(plain_name(path)).suffix.lower()]


def _stem(path: str) -> str:
    return str(PurePosixPath(plain_name(path)).with_suffix(""))


def _stem_name(path: str) -> str:
    return PurePosixPath(_stem(path)).name


def _folders(files: list[str]) -> list[str]:
    return sorted({str(PurePosixPath(path).parent) for path in files if "/" in path}) or files


def _nothing(wanted: HubDataset, what: str, name: str | None, known: Iterable[str]) -> str:
    named = "configuration, folder or file" if what == "part" else what
    return f"{wanted.id} has no {named} {name!r}; there are: {_listed(list(known)) or 'none'}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
