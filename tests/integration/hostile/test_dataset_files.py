"""Dataset files that are damaged on purpose: each is taken or refused with the reason, in bounded time and memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from contextlib import suppress
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opensloth.datasets.previews import PreviewService
from opensloth.errors import OpenSlothError
from opensloth.services import Services
from tests.support.jobs import ADMIN, add_model, body

ROWS = [{"prompt": f"Say {n} «ä»", "completion": f"{n} ok"} for n in range(20)]


@lru_cache(maxsize=1)
def whole() -> dict[str, bytes]:
    """A sound file of each kind."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = pa.Table.from_pylist(ROWS)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt", "completion"])
    writer.writeheader()
    writer.writerows(ROWS)
    parquet, arrow, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    with pa.ipc.new_file(arrow, table.schema) as file:
        file.write_table(table)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../rows.jsonl", lines)
    return {
        "rows.jsonl": lines,
        "rows.json": json.dumps(ROWS).encode(),
        "rows.csv": text.getvalue().encode(),
        "rows.jsonl.gz": gzip.compress(lines, mtime=0),
        "rows.jsonl.zst": bytes(pa.Codec("zstd").compress(lines, asbytes=True)),
        "rows.parquet": parquet.getvalue(),
        "rows.arrow": arrow.getvalue(),
        "rows.zip": packed.getvalue(),
    }


TEXTS = ("rows.jsonl", "rows.json", "rows.csv")
PIECES = (b"\0", b"\xff", b'"', b"\n", b"[" * 2000, b"{", b"1e999", b"NaN", b"\\ud800", b"null", b"9" * 5000, b",")


@st.composite
def damaged(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, bytes]:
    """A file's name and its bytes after some flips, cuts, insertions and repetitions."""
    name = draw(st.sampled_from(names))
    content = bytearray(whole()[name])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(("flip", "cut", "insert", "repeat", "drop"))):
            case "flip" if content:
                content[at] ^= draw(st.integers(1, 255))
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = draw(st.sampled_from(PIECES))
            case "repeat":
                content[at:at] = content[: at + 1]
            case _:
                del content[at : at + draw(st.integers(1, 40))]
    other = draw(st.sampled_from((name, name, "rows.csv", "rows", "..\\rows.gz")))
    return other, bytes(content)


def attack(services: Services, name: str, content: bytes) -> None:
    """Upload, look at and submit: whatever is wrong is one of our errors, and what is taken can be used."""
    try:
        file = services.files.create(name, [content], ADMIN)
    except OpenSlothError:
        return
    previews = PreviewService(services.database, services.storage, services.files, services.models, 30)
    for use in (
        lambda: previews.preview(file.id, ADMIN, rows=20),
        lambda: services.jobs.submit(body(services, file.id), ADMIN),
    ):
        with suppress(OpenSlothError):
            use()


LOOSE = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_damaged_text_is_taken_or_refused_with_the_reason(services: Services) -> None:
    @settings(max_examples=60, **LOOSE)  # type: ignore[arg-type]
    @given(damaged(TEXTS))
    def check(file: tuple[str, bytes]) -> None:
        with suppress(OpenSlothError):
            services.files.create(file[0], [file[1]], ADMIN)

    check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_damaged_file_is_taken_or_refused_with_the_reason(services: Services) -> None:
    add_model(services)

    @settings(max_examples=150, **LOOSE)  # type: ignore[arg-type]
    @given(damaged(tuple(whole())))
    def check(file: tuple[str, bytes]) -> None:
        attack(services, *file)

    check()
