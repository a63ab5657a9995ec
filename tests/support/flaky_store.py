"""An object store in memory that fails as a test asks: `flaky://NAME` through fsspec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class FlakyStore(MemoryFileSystem):
    """`before` is called with each operation that writes or reads, and its path; what it raises is raised."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    before: ClassVar[Callable[[str, str], None] | None] = None
    calls: ClassVar[list[tuple[str, str]]] = []
    keep: ClassVar[int | None] = None
    """So many bytes of what is put are kept."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("flaky://", "memory://")))

    def _told(self, operation: str, path: str) -> None:
        type(self).calls.append((operation, self._strip_protocol(path)))
        if type(self).before is not None:
            type(self).before(operation, path)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self._told("put", rpath)
        with open(lpath, "rb") as file:
            super().pipe_file(rpath, file.read()[: self.keep])

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._told("put", path)
        super().pipe_file(path, value, mode, **options)

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        self._told("get", rpath)
        super().get_file(rpath, lpath, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self._told("get", path)
        return bytes(super().cat_file(path, start, end, **options))


@contextmanager
def flaky() -> Iterator[type[FlakyStore]]:
    """The class, to say how it fails; empty before and after."""
    fsspec.register_implementation("flaky", FlakyStore, clobber=True)
    FlakyStore.store.clear()
    FlakyStore.pseudo_dirs[:] = [""]
    FlakyStore.before, FlakyStore.keep = None, None
    FlakyStore.calls.clear()
    yield FlakyStore
    FlakyStore.store.clear()
