"""`client.files`: datasets on the server, uploaded or fetched from the hub."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opensloth.remote.errors import ClientError, InvalidRequest, NotFound
from opensloth.remote.pages import iterate
from opensloth.remote.shapes import File
from opensloth.remote.transfer import CountedReader, ProgressCallback, download, sha256_of
from opensloth.remote.transport import Transport
from opensloth.remote.upload_cache import UploadCache

UPLOAD_TIMEOUT_S = 300.0
PREVIEW_TIMEOUT_S = 120.0


class Files:
    """Upload, list, read and delete files."""

    def __init__(self, transport: Transport, cache: UploadCache) -> None:
        self._transport = transport
        self._cache = cache

    def upload(
        self,
        path: Path | str,
        *,
        purpose: str = "fine-tune",
        reuse: bool = True,
        progress: ProgressCallback | None = None,
    ) -> File:
        """The file on the server with this content: uploaded now, or found from an earlier upload unless not `reuse`.

        Raises InvalidRequest if the path is no file or the server refuses its content.
        """
        local = Path(path)
        if not local.is_file():
            raise InvalidRequest(f"There is no file at {local}.", code="no_such_file")
        digest = sha256_of(local)
        server = self._transport.base_url
        known = self._known(digest, purpose) if reuse else None
        if known is not None:
            return known
        with local.open("rb") as file:
            reader = CountedReader(file, local.stat().st_size, progress)
            body = self._transport.json(
                "POST",
                "/v1/files",
                files={"file": (local.name, reader, "application/octet-stream")},
                data={"purpose": purpose},
                timeout=UPLOAD_TIMEOUT_S,
            )
        uploaded = File(**body)
        if uploaded.status != "error":
            self._cache.put(server, digest, purpose, uploaded.id)
        return uploaded

    def pull(self, dataset: str, *, secret: str | None = None, timeout_s: float = 3600.0, poll_s: float = 1.0) -> File:
        """The file with a dataset of the hub (`org/name@revision:config[split]`), once a worker has fetched it.

        `secret` names a stored token for a gated one. Raises ClientError if it cannot be fetched or takes longer.
        """
        body = {"dataset": dataset} if secret is None else {"dataset": dataset, "secret": secret}
        pull = self._transport.json("POST", "/v1/pulls", json=body)
        give_up = time.monotonic() + timeout_s
        while pull["status"] == "importing":
            if time.monotonic() > give_up:
                raise ClientError(f"{dataset} is still being fetched after {timeout_s:.0f} s.", code="timeout")
            time.sleep(poll_s)
            pull = self._transport.json("GET", f"/v1/pulls/{pull['id']}")
        if pull["status"] == "failed":
            reason = str(pull.get("reason") or "pull_failed")
            raise ClientError(f"{dataset} could not be fetched: {pull.get('error') or reason}", code=reason)
        return self.get(str(pull["file"]))

    def get(self, file_id: str) -> File:
        """One file; raises NotFound."""
        return File(**self._transport.json("GET", f"/v1/files/{file_id}"))

    def list(self, *, limit: int | None = None) -> Iterator[File]:
        """The caller's files, newest first, through all pages."""
        return iterate(self._transport, "/v1/files", File, limit=limit)

    def preview(self, file_id: str, **options: str | int | None) -> dict[str, Any]:
        """Rows as a model will see them, and statistics; `options` are the parameters of the route."""
        params = {name: value for name, value in options.items() if value is not None}
        path = f"/v1/files/{file_id}/preview"
        return self._transport.json("GET", path, params=params, timeout=PREVIEW_TIMEOUT_S)

    def delete(self, file_id: str) -> None:
        """Deletes a file; raises Conflict if a job uses it."""
        self._transport.request("DELETE", f"/v1/files/{file_id}")

    def download(self, file_id: str, target: Path, *, progress: ProgressCallback | None = None) -> Path:
        """Writes a file's content to `target`."""
        return download(self._transport, f"/v1/files/{file_id}/content", target, progress=progress)

    def _known(self, digest: str, purpose: str) -> File | None:
        file_id = self._cache.get(self._transport.base_url, digest, purpose)
        if file_id is None:
            return None
        try:
            return self.get(file_id)
        except NotFound:
            self._cache.forget(self._transport.base_url, digest, purpose)
            return None
