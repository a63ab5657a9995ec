"""Runs the imports of base models on this host, one at a time, beside the jobs."""

from __future__ import annotations

import logging
import threading

from opensloth.errors import Unavailable
from opensloth.models.imports import claim_import, renew_import, run_import
from opensloth.services import Services

log = logging.getLogger(__name__)


class ModelImports:
    """Claims a waiting import when asked to look, and does it in a thread."""

    def __init__(self, services: Services, host_id: str) -> None:
        self._services = services
        self._host_id = host_id
        self._thread: threading.Thread | None = None
        self._model_id: str | None = None

    def look(self) -> None:
        """Begin an import if one waits and none is under way; keep the claim of the one that is."""
        services = self._services
        if self._thread is not None and self._thread.is_alive():
            renew_import(services.database, str(self._model_id), self._host_id, services.settings.lease_s)
            return
        claimed = claim_import(services.database, self._host_id, services.settings.lease_s)
        if claimed is None:
            return
        self._model_id = claimed[0]
        self._thread = threading.Thread(target=self._run, args=claimed, name=f"import-{claimed[0]}", daemon=True)
        self._thread.start()

    def _run(self, model_id: str, source: str) -> None:
        log.info("importing the model %s from %s", model_id, source)
        scratch = self._services.settings.home.expanduser() / "imports"
        try:
            run_import(self._services.database, self._services.storage, scratch, model_id, self._host_id, source)
        except Unavailable as error:
            # The claim runs out and the import is done again.
            log.warning("the import of %s could not be written: %s", model_id, error)
        log.info("the import of %s is over", model_id)

    def stop(self) -> None:
        """An import that is under way is left to its claim: the next worker does it again."""
        self._thread = None
