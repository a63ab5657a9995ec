"""What lies in storage as a response: with its length, its hash as ETag, whole or in part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from opensloth.errors import NotFound
from opensloth.storage import Storage

CHUNK = 256 * 1024
_ONE_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})")
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-\d{0,18}|-\d{1,18})")


def stored_response(request: Request, storage: Storage, key: str, *, size: int, sha256: str, filename: str) -> Response:
    """The stored file `key`. Raises NotFound if storage does not have it."""
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    media_type = "application/octet-stream"
    local = storage.local_path(key)
    if local is not None:
        return _local(request, local, headers, media_type, filename)
    if not storage.exists(key):
        raise _gone()
    headers |= {"Accept-Ranges": "bytes", "Content-Disposition": f"attachment; filename*=utf-8''{quote(filename)}"}
    asked = _asked_range(request, etag, size)
    start, end = asked or (0, size)
    if asked:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    body = iter(()) if request.method == "HEAD" else chunks(storage, key, start, end)
    return StreamingResponse(body, 206 if asked else 200, headers=headers, media_type=media_type)


def chunks(storage: Storage, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes `start` to `end` of `key` in pieces."""
    with storage.open(key) as file:
        file.seek(start)
        left = CHUNK if end is None else end - start
        while piece := file.read(min(CHUNK, left)):
            left -= 0 if end is None else len(piece)
            yield piece


def _asked_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """The bytes of the one range that the client asks for; None for all. Raises a 416 for one beyond the end."""
    wanted = _ONE_RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last = wanted["first"], wanted["last"]
    if not first:
        return (max(0, size - int(last)), size) if last and int(last) and size else None
    if int(first) >= size:
        raise _beyond(size)
    return (int(first), min(size, int(last) + 1) if last else size) if not last or int(last) >= int(first) else None


def _local(request: Request, path: Path, headers: dict[str, str], media_type: str, filename: str) -> Response:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise _gone() from None
    wanted = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if wanted and wanted[1] and int(wanted[1]) >= stat.st_size:
        raise _beyond(stat.st_size)
    if not wanted:
        # A range that is not understood is answered with the whole, as RFC 9110 has it.
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    return FileResponse(path, headers=headers, media_type=media_type, filename=filename, stat_result=stat)


def _beyond(size: int) -> HTTPException:
    return HTTPException(416, "the range lies beyond the end of the file", headers={"Content-Range": f"bytes */{size}"})


def _gone() -> NotFound:
    return NotFound("its content is not in storage any more", code="content_missing")
