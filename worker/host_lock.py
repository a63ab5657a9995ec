"""One worker for each host: a lock in its home, and who spoke for the host from there before."""

from __future__ import annotations

import contextlib
import fcntl
from typing import IO

from opensloth.errors import OpenSlothError, Unavailable
from opensloth.services import Services

_REMEMBERED = 20


class HostLock:
    """Held as long as this process lives: two workers of one host would each take the other's jobs for lost.

    Raises OpenSlothError if another worker on this machine has it.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._host_id = services.settings.host_id
        home = services.settings.home.expanduser()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file: IO[str] = (home / f"worker-{self._host_id}.lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise OpenSlothError(
                f"a worker for host {self._host_id!r} runs already on this machine",
                hint="stop it, or give this one another OPENSLOTH_HOST_ID",
            ) from None
        self._file.seek(0)
        self._known = self._file.read().split()

    def require_no_other(self) -> None:
        """Raise Unavailable while a worker of another machine or home speaks for this host.

        Those that spoke from this home are dead, as the lock was free.
        """
        settings = self._services.settings
        speaker = self._services.devices.speaker(self._host_id)
        if speaker is None or speaker[0] is None or speaker[0] in self._known:
            return
        if abs(speaker[1]) < settings.host_timeout_s + settings.lease_s:  # by then its trainers have left
            raise Unavailable(
                f"another worker speaks for the host {self._host_id!r}",
                hint="stop it, or give this one an OPENSLOTH_HOST_ID of its own",
            )

    def sign(self, worker: str) -> None:
        """Note who speaks for the host, before the database is told."""
        self._known = [*self._known, worker][-_REMEMBERED:]
        with contextlib.suppress(OSError):  # on a full disk: the next one of this home waits until this one is silent
            self._file.truncate(0)
            self._file.write("\n".join(self._known))
            self._file.flush()
