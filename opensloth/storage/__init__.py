"""Files, models, checkpoints, results and logs, shared by API and workers."""

from opensloth.storage.errors import StorageCorrupt, StorageUnavailable
from opensloth.storage.store import Storage, StoredFile

__all__ = ["Storage", "StorageCorrupt", "StorageUnavailable", "StoredFile"]
