"""`opensloth evaluate`: rows that lie here are uploaded first."""

from __future__ import annotations

import json

from tests.support.fake_api import job

SOURCE = job()["id"]
URL = f"POST /v1/jobs/{SOURCE}/evaluations"


def test_a_file_of_rows_becomes_an_id_and_one_that_is_not_there_is_told(api, run, tmp_path):
    api.on(f"GET /v1/jobs/{SOURCE}", job("succeeded"))
    api.on("GET /v1/files", {"object": "list", "data": [], "has_more": False})
    api.on("POST /v1/files", {"id": "file-1", "filename": "rows.jsonl", "status": "processed"})
    api.on(URL, job("queued", id="ftjob-0e", name="tone evaluation"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}')
    done = run("evaluate", SOURCE, "--dataset", str(rows), "--grader", "exact_match")
    assert done.code == 0, done.err
    assert json.loads(api.seen(URL)[0].content) == {"graders": ["exact_match"], "dataset": "file-1"}
    missing = run("evaluate", SOURCE, "--dataset", "nothing.jsonl")
    assert missing.code == 2
    assert "there is no file at nothing.jsonl" in missing.err
