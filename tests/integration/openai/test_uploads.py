"""`client.uploads` against the service: parts in any order, ends at once, and nothing that stays half-written."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai.types import Upload
from sqlalchemy import update

from opensloth.accounts.rows import UserRow
from opensloth.datasets.upload_rows import UploadPartRow, UploadRow
from opensloth.services import Services

ROWS = "".join(json.dumps({"prompt": f"{n}?", "completion": f"{n}!"}) + "\n" for n in range(40)).encode()
MIME = "text/jsonl"


def begin(client: openai.OpenAI, size: int = len(ROWS), **more: object) -> Upload:
    return client.uploads.create(
        bytes=size,
        filename="big.jsonl",
        mime_type=MIME,
        purpose="fine-tune",
        **more,  # type: ignore[arg-type]
    )


def add(client: openai.OpenAI, upload: Upload, data: bytes) -> str:
    return client.uploads.parts.create(upload.id, data=data).id


def left(services: Services) -> list[str]:
    """What lies in storage and scratch beside finished files."""
    services.deletions.redo(0)
    scratch = services.storage.scratch(services.settings.home)
    return services.storage.list_keys("uploads") + [path.name for path in scratch.iterdir()]


def test_a_file_comes_whole_by_the_sdks_own_chunks(client: openai.OpenAI, services: Services, tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_bytes(ROWS)
    upload = client.uploads.upload_file_chunked(
        file=path, mime_type=MIME, purpose="fine-tune", part_size=500, md5=hashlib.md5(ROWS).hexdigest()
    )
    assert (upload.status, upload.bytes) == ("completed", len(ROWS))
    assert upload.file is not None
    assert (upload.file.filename, upload.file.status) == ("big.jsonl", "processed")
    assert client.files.content(upload.file.id).read() == ROWS
    assert left(services) == []


def test_parts_come_at_once_and_in_any_order(client: openai.OpenAI) -> None:
    upload = begin(client, expires_after={"anchor": "created_at", "seconds": 7200})
    pieces = [ROWS[start : start + 200] for start in range(0, len(ROWS), 200)]
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda piece: add(client, upload, piece), pieces[::-1]))
    done = client.uploads.complete(upload.id, part_ids=ids[::-1])
    assert done.file is not None
    assert client.files.content(done.file.id).read() == ROWS
    assert done.file.expires_at == done.file.created_at + 7200


def test_what_does_not_fit_is_refused_and_can_be_completed_after_all(client: openai.OpenAI) -> None:
    upload, other = begin(client), begin(client)
    first, second = add(client, upload, ROWS[:301]), add(client, upload, ROWS[301:])
    foreign = add(client, other, ROWS)
    for part_ids, md5, param in [
        ([first], None, "part_ids"),
        ([first, first], None, "part_ids[1]"),
        ([first, foreign], None, "part_ids[1]"),
        ([first, "part_none"], None, "part_ids[1]"),
        ([first, second], "0" * 32, "md5"),
        ([first, second], "short", "md5"),
        ([second, first], None, "file"),
        ([], None, "part_ids"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.uploads.complete(upload.id, part_ids=part_ids, **({"md5": md5} if md5 else {}))
        assert str(caught.value.param).startswith(param), caught.value
    assert list(client.files.list()) == []
    done = client.uploads.complete(upload.id, part_ids=[first, second], md5=hashlib.md5(ROWS).hexdigest().upper())
    assert done.status == "completed"


def test_the_same_completion_many_times_at_once_makes_one_file(client: openai.OpenAI, services: Services) -> None:
    upload = begin(client)
    part = add(client, upload, ROWS)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: client.uploads.complete(upload.id, part_ids=[part]), range(4)))
    assert len({one.file.id for one in done if one.file}) == 1
    assert len(list(client.files.list())) == 1
    assert len(services.storage.list_keys("files")) == 1
    assert left(services) == []


def test_an_upload_that_is_over_takes_nothing_more(client: openai.OpenAI, services: Services) -> None:
    completed, cancelled, expired = begin(client), begin(client), begin(client)
    parts = {one.id: add(client, one, ROWS) for one in (completed, cancelled, expired)}
    client.uploads.complete(completed.id, part_ids=[parts[completed.id]])
    assert client.uploads.cancel(cancelled.id).status == "cancelled"
    assert client.uploads.cancel(cancelled.id).status == "cancelled"
    with services.database.write() as session:
        session.execute(update(UploadRow).where(UploadRow.id == expired.id).values(expires_at=1.0))
    for one in (completed, cancelled, expired):
        with pytest.raises(openai.ConflictError):
            add(client, one, b"more")
    for one in (cancelled, expired):
        with pytest.raises(openai.ConflictError):
            client.uploads.complete(one.id, part_ids=[parts[one.id]])
    with pytest.raises(openai.ConflictError):
        client.uploads.cancel(completed.id)
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel("upload_none")
    assert services.uploads.expire() == 1
    assert left(services) == []
    with services.database.read() as session:
        assert session.query(UploadPartRow).count() == 0


def test_announced_bytes_count_against_the_quota_until_the_upload_is_over(
    client: openai.OpenAI, services: Services
) -> None:
    with services.database.write() as session:
        session.execute(update(UserRow).where(UserRow.name == "bob").values(max_bytes=len(ROWS) * 2 - 1))
    first = begin(client)
    with pytest.raises(openai.RateLimitError, match="may store"):
        begin(client)
    client.uploads.complete(first.id, part_ids=[add(client, first, ROWS)])
    with pytest.raises(openai.RateLimitError, match="may store"):
        begin(client)


def test_parts_beyond_what_was_announced_and_other_forms_are_refused(client: openai.OpenAI, services: Services) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.uploads.create(bytes=0, filename="a", mime_type=MIME, purpose="fine-tune")
    assert caught.value.param == "bytes"
    with pytest.raises(openai.BadRequestError, match="vision"):
        client.uploads.create(bytes=1, filename="a", mime_type=MIME, purpose="vision")
    upload = begin(client)
    with pytest.raises(openai.BadRequestError, match="empty"):
        add(client, upload, b"")
    with pytest.raises(openai.APIStatusError) as large:
        add(client, upload, b"x" * (64 * 2**20 + 200_000))
    assert large.value.status_code == 413
    assert left(services) == []
