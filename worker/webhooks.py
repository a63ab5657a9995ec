"""Sends what the outbox holds for webhooks, a few at a time; every worker does, and no two send the same."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from opensloth.errors import Unavailable
from opensloth.services import Services
from opensloth.webhooks.delivery import Claimed

log = logging.getLogger(__name__)

SENDERS = 4
PRUNE_EVERY_S = 3600.0


class Webhooks(threading.Thread):
    """Goes on until `stop` is set; a delivery that this cuts off is sent again by whoever comes next."""

    def __init__(self, services: Services, stop: threading.Event) -> None:
        super().__init__(name="webhooks", daemon=True)
        self._deliveries = services.deliveries
        self._every_s = services.settings.poll_s
        self._stop_asked = stop
        self._wake = threading.Event()
        self._busy: set[str] = set()
        self._pruned = float("-inf")

    def run(self) -> None:
        """A look every few seconds, and when a sender has become free."""
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="webhook") as senders:
            while not self._stop_asked.is_set():
                try:
                    self._look(senders)
                except Unavailable as error:
                    log.warning("webhooks wait for the database: %s", error)
                except Exception:
                    log.exception("looking for webhooks to send failed")
                self._wake.wait(self._every_s)
                self._wake.clear()

    def _look(self, senders: ThreadPoolExecutor) -> None:
        while len(self._busy) < SENDERS and not self._stop_asked.is_set():
            claimed = self._deliveries.claim(tuple(self._busy))
            if claimed is None:
                break
            self._busy.add(claimed.webhook_id)
            senders.submit(self._send, claimed)
        if time.monotonic() - self._pruned > PRUNE_EVERY_S:
            self._pruned = time.monotonic()
            self._deliveries.prune()

    def _send(self, claimed: Claimed) -> None:
        try:
            self._deliveries.send(claimed)
        except Unavailable as error:
            log.warning("the delivery %s is sent again, as its end could not be written: %s", claimed.id, error)
        except Exception:
            log.exception("the delivery %s failed", claimed.id)
        finally:
            self._busy.discard(claimed.webhook_id)
            self._wake.set()
