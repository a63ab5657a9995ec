"""Which content was uploaded to which server before, so that nothing is sent twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

MAX_ENTRIES = 2000


class UploadCache:
    """A small JSON file of (server, SHA-256, purpose) to file id.

    It is only a memory: an entry that the server no longer confirms is forgotten, and a lost file costs an upload.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, server: str, sha256: str, purpose: str) -> str | None:
        """The id under which this content was uploaded, if it was."""
        return self._read().get(_key(server, sha256, purpose))

    def put(self, server: str, sha256: str, purpose: str, file_id: str) -> None:
        """Remembers an upload."""
        entries = self._read()
        entries.pop(_key(server, sha256, purpose), None)
        entries[_key(server, sha256, purpose)] = file_id
        self._write(dict(list(entries.items())[-MAX_ENTRIES:]))

    def forget(self, server: str, sha256: str, purpose: str) -> None:
        """Forgets an upload."""
        entries = self._read()
        if entries.pop(_key(server, sha256, purpose), None) is not None:
            self._write(entries)

    def _read(self) -> dict[str, str]:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in stored.items()} if isinstance(stored, dict) else {}

    def _write(self, entries: dict[str, str]) -> None:
        aside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(entries, indent=1), encoding="utf-8")
            os.replace(aside, self._path)
        except OSError:
            # A home that cannot be written costs a second upload, never the submission.
            aside.unlink(missing_ok=True)


def _key(server: str, sha256: str, purpose: str) -> str:
    return f"{server} {sha256} {purpose}"
