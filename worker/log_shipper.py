"""Brings the growing `trainer.log` of an attempt into storage, in a thread: a storage that hangs holds nothing up."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from opensloth.errors import OpenSlothError
from opensloth.storage import Storage
from opensloth.storage.logs import LogWriter

log = logging.getLogger(__name__)

FOLDER_EVERY_S, OBJECTS_EVERY_S = 0.5, 5.0
"""In an object store each time is a request or two."""
LAST_WAIT_S = 30.0
"""How long the end of an attempt waits for the rest of its log."""


class LogShipper(threading.Thread):
    """Ships what is written until `finish`."""

    def __init__(self, path: Path, storage: Storage, key: str) -> None:
        super().__init__(name=f"log-{path.parent.name}", daemon=True)
        self._path = path
        self._key = key
        self._writer = LogWriter(storage, key)
        self._every_s = OBJECTS_EVERY_S if storage.folder is None else FOLDER_EVERY_S
        self._over = threading.Event()

    def run(self) -> None:
        """The thread's life."""
        while not self._over.wait(self._every_s):
            self._ship()
        self._ship()

    def finish(self) -> None:
        """Ship the rest; what is not in storage by then is told in the worker's log."""
        self._over.set()
        if self.is_alive():
            self.join(LAST_WAIT_S)
        if self.is_alive() or self._writer.offset < self.written:
            log.warning("%s has %d of %d bytes of the log", self._key, self._writer.offset, self.written)

    @property
    def written(self) -> int:
        """How long the log is by now, in bytes."""
        return self._path.stat().st_size if self._path.exists() else 0

    def tail(self, lines: int = 20) -> str | None:
        """The last lines of the log."""
        if not self._path.exists():
            return None
        with self._path.open("rb") as file:
            file.seek(max(0, self._path.stat().st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:]) or None

    def _ship(self) -> None:
        try:
            self._writer.ship(self._path)
        except (OSError, OpenSlothError) as error:
            log.warning("%s waits: %s", self._key, error)
        except Exception:
            log.exception("%s could not be written", self._key)
