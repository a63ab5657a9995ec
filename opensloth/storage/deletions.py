"""Removal from storage that outlives a kill: written down with the change that lets a key go, and done after it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from opensloth.database import Database, after_commit, db_now, insert_of
from opensloth.storage.rows import StorageDeletionRow
from opensloth.storage.store import Storage

log = logging.getLogger(__name__)


def let_go(session: Session, key: str) -> None:
    """Write down that `key`, a file or a tree, goes if the transaction is committed; a worker removes it."""
    statement = insert_of(session)(StorageDeletionRow).values(key=key, asked_at=db_now())
    session.execute(statement.on_conflict_do_nothing())


class Deletions:
    """Removes what nothing refers to any more. No key that was let go is ever used again."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._db = database
        self._storage = storage

    def forget(self, session: Session, keys: Iterable[str]) -> None:
        """Remove `keys`, files or trees, once the transaction of `session` is committed."""
        wanted = list(keys)
        for key in wanted:
            let_go(session, key)

        def remove() -> None:
            for key in wanted:
                self._remove(key)

        after_commit(session, remove)

    def redo(self, older_than_s: float = 60.0) -> int:
        """Do what was asked for and is not done, because somebody was killed; returns how many keys went."""
        with self._db.read() as session:
            asked = select(StorageDeletionRow.key).where(StorageDeletionRow.asked_at < db_now() - older_than_s)
            keys = session.scalars(asked.order_by(StorageDeletionRow.asked_at)).all()
        return sum(self._remove(key) for key in keys)

    def _remove(self, key: str) -> bool:
        try:
            self._storage.delete(key)
        except Exception as error:  # whatever a store's driver raises: the row stays, and it is done again
            log.warning("%s is not removed from storage yet: %s", key, error)
            return False
        with self._db.write() as session:
            session.execute(delete(StorageDeletionRow).where(StorageDeletionRow.key == key))
        return True
