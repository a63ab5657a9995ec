"""Runs what this host fetches beside the jobs: base models, and datasets of the hub, one of each at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from opensloth.errors import Unavailable
from opensloth.models.imports import claim_import, renew_import, run_import
from opensloth.services import Services

log = logging.getLogger(__name__)


@dataclass
class _Line:
    """One kind of thing that is fetched, and the thread that fetches one of it at the moment."""

    kind: str
    claim: Callable[[], str | None]
    renew: Callable[[str], object]
    run: Callable[[str], None]
    thread: threading.Thread | None = None
    claimed: str = ""

    def look(self) -> None:
        """Begin one if one waits and none is under way; keep the claim of the one that is."""
        if self.thread is not None and self.thread.is_alive():
            self.renew(self.claimed)
            return
        claimed = self.claim()
        if claimed is None:
            return
        self.claimed = claimed
        self.thread = threading.Thread(target=self._do, args=[claimed], name=f"import-{claimed}", daemon=True)
        self.thread.start()

    def _do(self, claimed: str) -> None:
        log.info("fetching the %s %s", self.kind, claimed)
        try:
            self.run(claimed)
        except Unavailable as error:
            # The claim runs out and it is done again.
            log.warning("the %s %s could not be written: %s", self.kind, claimed, error)
        log.info("the fetching of the %s %s is over", self.kind, claimed)


class Imports:
    """Claims what waits when asked to look, and does it in threads."""

    def __init__(self, services: Services, host_id: str) -> None:
        database, lease_s = services.database, services.settings.lease_s
        scratch = services.settings.home.expanduser() / "imports"
        self._lines = [
            _Line(
                "model",
                claim=lambda: claim_import(database, host_id, lease_s),
                renew=lambda model: renew_import(database, model, host_id, lease_s),
                run=lambda model: run_import(database, services.storage, services.secrets, scratch, model, host_id),
            ),
            _Line(
                "dataset",
                claim=lambda: services.pulls.claim(host_id),
                renew=lambda pull: services.pulls.renew(pull, host_id),
                run=lambda pull: services.pulls.run(pull, host_id),
            ),
        ]

    def look(self) -> None:
        """Begin what waits, one of each kind; keep the claims of what is under way."""
        for line in self._lines:
            line.look()

    def stop(self) -> None:
        """What is under way is left to its claim: the next worker does it again."""
        for line in self._lines:
            line.thread = None
