"""`opensloth export` and `opensloth secrets`."""

from __future__ import annotations

import io
import json

from tests.support.fake_api import job, problem

SOURCE = job()["id"]
URL = f"POST /v1/jobs/{SOURCE}/exports"


def test_an_export_sends_what_was_asked_and_prints_its_id(api, run):
    api.on(f"GET /v1/jobs/{SOURCE}", job("succeeded"))
    api.on(URL, job("queued", id="ftjob-0e", name="tone q8_0"))
    done = run("export", SOURCE, "--format", "gguf", "--quantization", "q8_0", "--push-to", "team/tone")
    assert (done.code, done.out.split()[0]) == (0, "ftjob-0e")
    push = {"repo": "team/tone", "private": True, "secret": "hf"}
    sent = api.seen(URL)[0]
    assert json.loads(sent.content) == {"format": "gguf", "quantization": "q8_0", "push_to_hub": push}
    assert sent.headers["Idempotency-Key"]


def test_a_form_that_there_is_not_is_explained(api, run):
    api.on(f"GET /v1/jobs/{SOURCE}", job("succeeded"))
    errors = [{"path": "format", "message": "Input should be 'merged_16bit', 'gguf' or 'adapter'"}]
    api.on(URL, problem(422, "invalid_input", "format is wrong", errors=errors))
    done = run("export", SOURCE, "--format", "onnx")
    assert done.code == 2
    assert "merged_16bit" in done.err


def test_a_secret_is_read_from_stdin_and_not_repeated(api, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_verysecret\n"))
    api.on("POST /v1/secrets", {"name": "hf", "object": "secret"})
    done = run("secrets", "set", "hf")
    assert json.loads(api.seen("POST /v1/secrets")[0].content) == {"name": "hf", "value": "hf_verysecret"}
    assert "hf_verysecret" not in done.out + done.err
    api.on("GET /v1/secrets", {"object": "list", "data": [{"name": "hf"}]})
    assert "hf" in run("secrets", "list").out
    api.on("DELETE /v1/secrets/hf", {"name": "hf", "deleted": True})
    assert run("secrets", "delete", "hf").code == 0
