"""Files, models, checkpoints, results and logs, shared by API and workers."""

from opensloth.storage.errors import StorageCorrupt, StorageUnavailable
from opensloth.storage.manifest import StoredFile
from opensloth.storage.store import Storage

__all__ = ["Storage", "StorageCorrupt", "StorageUnavailable", "StoredFile"]
