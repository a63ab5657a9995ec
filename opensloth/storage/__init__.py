"""Files, models, checkpoints, results and logs, shared by API and workers."""

from opensloth.storage.store import Storage, StorageCorrupt, StoredFile

__all__ = ["Storage", "StorageCorrupt", "StoredFile"]
