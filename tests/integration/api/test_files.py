import hashlib
import json
import socket
import threading

import httpx
import pytest

from opensloth.services import Services
from tests.support.jobs import add_model

SFT = b'{"prompt": "Hi", "completion": "Hello!"}\n'
OPENAI_FILE = {"id", "object", "bytes", "created_at", "filename", "purpose", "status", "status_details", "expires_at"}


def upload(client: httpx.Client, content: bytes = SFT, name: str = "data.jsonl", purpose: str | None = "fine-tune"):
    data = {} if purpose is None else {"purpose": purpose}
    return client.post("/v1/files", files={"file": (name, content)}, data=data)


def stored(services: Services) -> list[str]:
    uploads = services.settings.home / "uploads"
    return services.storage.list_keys("files") + [path.name for path in uploads.glob("*")]


def test_a_file_comes_back_in_the_shape_of_openai_with_its_content(admin):
    answer = upload(admin, SFT * 3, 'gespräch "a".jsonl')
    assert answer.status_code == 200
    file = answer.json()
    assert set(file) == OPENAI_FILE
    assert (file["object"], file["bytes"], file["purpose"], file["status"]) == (
        "file",
        len(SFT) * 3,
        "fine-tune",
        "processed",
    )
    assert file["filename"] == 'gespräch "a".jsonl'
    assert isinstance(file["created_at"], int)
    assert admin.get(f"/v1/files/{file['id']}").json() == file
    content = admin.get(f"/v1/files/{file['id']}/content")
    assert content.content == SFT * 3
    assert content.headers["etag"] == f'"{hashlib.sha256(SFT * 3).hexdigest()}"'
    assert "filename*=utf-8''gespr%C3%A4ch" in content.headers["content-disposition"]
    assert admin.delete(f"/v1/files/{file['id']}").json() == {"id": file["id"], "object": "file", "deleted": True}
    assert admin.get(f"/v1/files/{file['id']}").status_code == 404


def test_content_answers_ranges_and_known_etags(admin):
    url = f"/v1/files/{upload(admin).json()['id']}/content"
    part = admin.get(url, headers={"Range": "bytes=2-7"})
    assert (part.status_code, part.content) == (206, SFT[2:8])
    assert admin.get(url, headers={"Range": "bytes=9999-"}).status_code == 416
    assert admin.get(url, headers={"Range": "bytes=9999-"}).json()["code"]
    assert admin.get(url, headers={"Range": "lines=1-2"}).content == SFT
    etag = admin.get(url).headers["etag"]
    assert admin.get(url, headers={"If-None-Match": etag}).status_code == 304
    head = admin.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(SFT)), b"")


def test_files_are_listed_newest_first_page_by_page(admin):
    ids = [upload(admin, SFT * (n + 1)).json()["id"] for n in range(5)]
    first = admin.get("/v1/files", params={"limit": 2}).json()
    assert first["object"] == "list"
    assert [file["id"] for file in first["data"]] == ids[:2:-1]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, ids[4], ids[3])
    rest = admin.get("/v1/files", params={"limit": 3, "after": first["last_id"], "purpose": "fine-tune"}).json()
    assert [file["id"] for file in rest["data"]] == ids[2::-1]
    assert rest["has_more"] is False
    assert [file["id"] for file in admin.get("/v1/files?order=asc").json()["data"]] == ids
    assert admin.get("/v1/files?limit=0").json()["errors"][0]["path"] == "limit"
    assert admin.get("/v1/files?after=file-none").json()["errors"][0]["path"] == "after"
    assert admin.get("/v1/files?purpose=batch").json()["data"] == []


def raw_form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(b"--xyz\r\n%s\r\n\r\n%s\r\n" % (head.encode(), value) for head, value in parts) + b"--xyz--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=xyz"}


PURPOSE = ('Content-Disposition: form-data; name="purpose"', b"fine-tune")
FILE = ('Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: text/plain', SFT)


def test_purpose_may_stand_before_or_after_the_file(admin):
    for parts in ((PURPOSE, FILE), (FILE, PURPOSE)):
        body, headers = raw_form(*parts)
        assert admin.post("/v1/files", content=body, headers=headers).json()["filename"] == "a.jsonl"


def test_a_name_that_is_a_path_loses_its_folders(admin, services):
    for name, shown in [("../../etc/passwd", "passwd"), ("C:\\x\\y.jsonl", "y.jsonl"), ("..", "file"), ("a\tb", "ab")]:
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"'
        body, headers = raw_form(PURPOSE, (head, SFT))
        file = admin.post("/v1/files", content=body, headers=headers).json()
        assert file["filename"].removesuffix(".jsonl") == shown.removesuffix(".jsonl")
        assert services.storage.exists(f"files/{file['id']}/content")


def test_a_quote_in_a_name_is_kept(admin):
    body, headers = raw_form(PURPOSE, (FILE[0].replace("a.jsonl", 'sa\\"y.jsonl'), SFT))
    assert admin.post("/v1/files", content=body, headers=headers).json()["filename"] == 'sa"y.jsonl'


def test_a_form_with_a_part_too_few_or_too_many_is_refused(admin, services):
    for parts, path in [
        ((FILE,), "purpose"),
        ((PURPOSE,), "file"),
        ((PURPOSE, FILE, FILE), "file"),
        ((PURPOSE, FILE, ('Content-Disposition: form-data; name="expires_after"', b"1")), "expires_after"),
        ((('Content-Disposition: form-data; name="purpose"', b"batch"), FILE), "purpose"),
    ]:
        body, headers = raw_form(*parts)
        answer = admin.post("/v1/files", content=body, headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, path)
    assert stored(services) == []


def test_a_body_that_is_no_form_is_refused(admin, services):
    cut = b'--xyz\r\nContent-Disposition: form-data; name="file"\r\n\r\ncut'
    for body, content_type, status in [
        (b"{}", "application/json", 415),
        (b"", "multipart/form-data", 400),
        (b"no boundary here", "multipart/form-data; boundary=xyz", 400),
        (cut, "multipart/form-data; boundary=xyz", 400),
    ]:
        answer = admin.post("/v1/files", content=body, headers={"Content-Type": content_type})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
    assert stored(services) == []


def test_rows_that_cannot_be_read_are_refused_with_row_and_cure_and_leave_nothing(admin, services):
    answer = upload(admin, SFT + b'{"prompt": "Hi"\n' + b"[1]\n")
    problem = answer.json()
    assert answer.status_code == 400
    assert problem["code"] == "invalid_dataset"
    assert [error["row"] for error in problem["errors"]] == [2, 3]
    assert "row 2 is not valid JSON" in problem["error"]["message"]
    assert problem["hint"]
    assert stored(services) == []
    assert upload(admin, b"").status_code == 400


def test_a_file_that_serves_no_training_type_is_kept_and_says_why(admin):
    file = upload(admin, b'{"question": "Hi"}\n').json()
    assert file["status"] == "error"
    assert "`question`" in file["status_details"]
    check = admin.get(f"/v1/files/{file['id']}/check").json()
    assert check["methods"]["sft"]["errors"][0]["row"] == 1


def test_a_submission_names_the_first_bad_rows_of_its_file(admin, services):
    add_model(services)
    rows = [{"prompt": "a", "chosen": "b", "rejected": "b" if n % 2 else "c"} for n in range(30)]
    file = upload(admin, "\n".join(map(json.dumps, rows)).encode()).json()
    config = {"training_type": "dpo", "fast_model_args": {"model_name": "tiny"}}
    answer = admin.post("/v1/jobs", json={"dataset": file["id"], "opensloth_config": config})
    problem = answer.json()
    assert answer.status_code == 422
    assert problem["code"] == "invalid_dataset"
    assert [error["row"] for error in problem["errors"]] == list(range(2, 21, 2))
    assert problem["errors"][0]["path"] == "dataset.rows[2].rejected"
    assert "15 of 30 rows" in problem["detail"]


def test_a_file_in_use_and_a_file_of_another_are_not_deleted(admin, member, services):
    add_model(services)
    file = upload(member).json()
    config = {"training_type": "sft", "fast_model_args": {"model_name": "tiny"}}
    job = member.post("/v1/jobs", json={"dataset": file["id"], "opensloth_config": config}).json()
    assert member.delete(f"/v1/files/{file['id']}").status_code == 409
    assert member.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert member.delete(f"/v1/files/{file['id']}").json()["deleted"]
    assert member.delete(f"/v1/files/{upload(admin).json()['id']}").status_code == 403


@pytest.mark.parametrize("then", [b"", SFT + b"\r\n--xyz--\r\n"])
def test_an_upload_beyond_the_limit_is_refused_while_it_streams_in(admin, services, then):
    services.settings.max_upload_bytes = 1 << 20

    def endless():
        yield b"--xyz\r\n" + FILE[0].encode() + b"\r\n\r\n" + then
        for _ in range(64):
            yield SFT * ((1 << 18) // len(SFT))

    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    answer = admin.post("/v1/files", content=endless(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "file_too_large")
    assert stored(services) == []


def raw_request(admin: httpx.Client, length: int) -> socket.socket:
    connection = socket.create_connection((admin.base_url.host, admin.base_url.port), timeout=10)
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: {admin.headers['Authorization']}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def test_an_announced_length_beyond_the_limit_is_refused_before_the_body(admin):
    with raw_request(admin, 1 << 40) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_client_that_goes_away_leaves_nothing(admin, services):
    with raw_request(admin, 1_000_000) as connection:
        connection.sendall(b"--xyz\r\n" + FILE[0].encode() + b"\r\n\r\n" + SFT)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)
    assert upload(admin).status_code == 200
    assert len(stored(services)) == 1


def test_the_same_content_may_be_uploaded_many_times_at_once(admin):
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(upload(admin).status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8
    assert len(admin.get("/v1/files").json()["data"]) == 8
