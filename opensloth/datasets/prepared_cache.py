"""Prepared datasets, kept by what they were made from: the second job on the same data starts without preparing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

DATA = "data.arrow"
META = "meta.json"
LIMIT_BYTES = 20 * 2**30
Make = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One prepared dataset: an Arrow stream file, what was said about it, and whether another job had made it."""

    data: Path
    meta: dict[str, Any]
    reused: bool


class PreparedCache:
    """A folder of prepared datasets of at most `limit_bytes`; what was used longest ago goes first.

    What any process of `job` made is not reused by another one of the same job.
    """

    def __init__(self, folder: Path | str, limit_bytes: int = LIMIT_BYTES, job: str | None = None) -> None:
        self._folder = Path(folder)
        self._job = job
        self._limit_bytes = limit_bytes

    @contextmanager
    def get(self, key: str, make: Make) -> Iterator[Entry]:
        """The entry of `key`, which stays while the block lasts; `make` writes its data file and describes it.

        Of several processes that ask at once one makes it and the others wait. An entry that is damaged is made anew.
        """
        with self._locked(key):
            entry = self._read(key)
            if entry is None:
                self._write(key, make)
                entry = self._read(key, verify=False)
                assert entry is not None
                entry = Entry(entry.data, entry.meta, reused=False)
            os.utime(entry.data)
            self._evict(keep=key)
            yield entry

    def _read(self, key: str, verify: bool = True) -> Entry | None:
        folder = self._folder / key
        try:
            meta = json.loads((folder / META).read_bytes())
            if verify and file_sha256(folder / DATA) != meta["sha256"]:
                return None
            own = self._job is not None and meta.get("job") == self._job
            return Entry(folder / DATA, meta["about"], reused=not own)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, key: str, make: Make) -> None:
        aside = self._folder / f"{key}.part"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            about = make(aside / DATA)
            meta = {"about": about, "sha256": file_sha256(aside / DATA), "made_at": time.time(), "job": self._job}
            (aside / META).write_text(json.dumps(meta))
            shutil.rmtree(self._folder / key, ignore_errors=True)
            aside.rename(self._folder / key)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _evict(self, keep: str) -> None:
        entries = []
        for data in self._folder.glob(f"*/{DATA}"):
            try:
                status = data.stat()
            except FileNotFoundError:
                continue  # another process was faster
            entries.append((status.st_mtime, status.st_size, data.parent))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total <= self._limit_bytes:
                return
            if folder.name == keep:
                continue
            with self._locked(folder.name, wait=False) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)
                    total -= size

    @contextmanager
    def _locked(self, key: str, wait: bool = True) -> Iterator[bool]:
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (locks / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


def cache_key(fingerprint: str, tokenizer: Any, options: dict[str, Any]) -> str:
    """What names a prepared dataset: content, tokenizer with its template, options, and this code."""
    parts = [fingerprint, tokenizer_fingerprint(tokenizer), options, code_fingerprint()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of everything that decides which ids a text or a conversation becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        vocabulary = json.loads(backend.to_str())
        # Set and unset by calls of the tokenizer; neither is used here.
        vocabulary.pop("truncation", None)
        vocabulary.pop("padding", None)
    else:
        vocabulary = tokenizer.get_vocab()
    template = getattr(tokenizer, "chat_template", None)
    parts = [type(tokenizer).__name__, vocabulary, template, {k: str(v) for k, v in _special(tokenizer).items()}]
    if "strftime_now" in str(template):
        parts.append(time.strftime("%Y-%m-%d"))  # the template writes today's date
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """A hash of the modules that prepare data, and of the versions of the libraries that do."""
    from importlib.metadata import version

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for name in ("transformers", "tokenizers", "datasets"):
        digest.update(f"{name}={version(name)}".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _special(tokenizer: Any) -> dict[str, Any]:
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {name: getattr(tokenizer, name, None) for name in names}
