import hashlib
import io
import tracemalloc
import zipfile

import pytest

from api.zipping import zip_stream
from opensloth.services import Services
from opensloth.storage import Storage
from tests.support.jobs import submit

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 5000, "tok/vocab ü.json": b"[1]"}


@pytest.fixture
def job_id(services: Services, tmp_path) -> str:
    made = submit(services)
    for name, content in FILES.items():
        path = tmp_path / "result" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    services.storage.put_tree(tmp_path / "result", f"jobs/{made}/artifacts")
    return made


def test_artifacts_are_listed_with_size_and_hash_and_downloaded(admin, job_id):
    listed = admin.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    assert {entry["name"]: entry["bytes"] for entry in listed} == {name: len(c) for name, c in FILES.items()}
    for entry in listed:
        answer = admin.get(f"/v1/jobs/{job_id}/artifacts/{entry['name']}")
        assert answer.content == FILES[entry["name"]]
        assert answer.headers["content-length"] == str(entry["bytes"])
        assert answer.headers["etag"] == f'"{entry["sha256"]}"' == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_broken_download_is_taken_up_again_where_it_broke(admin, job_id):
    url = f"/v1/jobs/{job_id}/artifacts/adapter_model.safetensors"
    etag = admin.head(url).headers["etag"]
    rest = admin.get(url, headers={"Range": "bytes=30000-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, FILES["adapter_model.safetensors"][30000:])
    changed = admin.get(url, headers={"Range": "bytes=30000-", "If-Range": '"other"'})
    assert (changed.status_code, len(changed.content)) == (200, 35000)


def test_all_of_a_result_comes_as_one_archive(admin, job_id):
    answer = admin.get(f"/v1/jobs/{job_id}/artifacts/all.zip")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(f"{job_id}/{name}") for name in FILES} == FILES
    assert admin.get(f"/v1/jobs/{job_id}/artifacts/all.zip").content == answer.content


def test_nothing_but_listed_files_is_given(admin, job_id):
    for name in ("..%2f..%2fopensloth.db", "MANIFEST.json", "%2fetc%2fpasswd", "x", "tok", ""):
        assert admin.get(f"/v1/jobs/{job_id}/artifacts/{name}").status_code == 404


def test_a_job_without_a_result_has_no_artifacts(admin, services):
    job_id = submit(services)
    assert admin.get(f"/v1/jobs/{job_id}/artifacts").json()["data"] == []
    assert admin.get(f"/v1/jobs/{job_id}/artifacts/all.zip").json()["code"] == "no_result"


def test_an_archive_is_made_in_bounded_memory(tmp_path):
    storage = Storage(str(tmp_path))
    (tmp_path / "big").write_bytes(b"x" * (64 << 20))
    tracemalloc.start()
    size = sum(len(piece) for piece in zip_stream(storage, [("a", "big"), ("b", "big")]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 128 << 20
    assert peak < 8 << 20
