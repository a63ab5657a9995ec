"""The shapes of models in storage, from their `config.json` and the headers of their weights."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

from opensloth.devices.model_shape import ModelShape, read_shape
from opensloth.storage import Storage

_KEPT = 256
_MAX_HEADER_BYTES = 100_000_000
"""The longest header that the safetensors format allows."""


class ModelShapes:
    """Reads each model once; what a key holds is told apart by the digests in its manifest."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, ...], ModelShape | None] = OrderedDict()

    def of(self, key: str) -> ModelShape | None:
        """The shape of the model at a storage key; None if it is not there or does not say."""
        files = self._storage.list_tree(key)
        if files is None:
            return None
        identity = (key, *(file.sha256 for file in files))
        with self._lock:
            if identity in self._known:
                return self._known[identity]
        names = [file.name for file in files]
        shape = self._read(key, names) if "config.json" in names else None
        with self._lock:
            self._known[identity] = shape
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return shape

    def _read(self, key: str, names: list[str]) -> ModelShape | None:
        try:
            with self._storage.open(f"{key}/config.json") as file:
                config = json.load(file)
            tensors: dict[str, Any] = {}
            for name in names:
                if name.endswith(".safetensors"):
                    tensors |= self._header(f"{key}/{name}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # whoever loads it will say what is wrong with it
        return read_shape(config, tensors) if isinstance(config, dict) else None

    def _header(self, key: str) -> dict[str, Any]:
        """Tensor shapes by name: 8 bytes of length, little-endian, then that much JSON."""
        with self._storage.open(key) as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        return {name: tensor["shape"] for name, tensor in entries.items() if name != "__metadata__"}
