"""`opensloth submit`: files become ids, mistakes become lines, the outcome becomes the exit code."""

from __future__ import annotations

import json

import pytest

from tests.support.fake_api import event, job, problem, sse

ID = job()["id"]


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "hello"}\n')
    path = tmp_path / "job.yaml"
    path.write_text("name: tone\ndataset: rows.jsonl\ntraining_args:\n  learning_rate: 5e-6\n")
    return path


@pytest.fixture
def taken(api):
    api.on("POST /v1/files", {"id": "file-1", "filename": "rows.jsonl", "status": "processed"})
    api.on("GET /v1/files/file-1", {"id": "file-1", "filename": "rows.jsonl", "status": "processed"})
    api.on("POST /v1/jobs", job("queued"))
    return api


def posted(api):
    return json.loads(api.seen("POST /v1/jobs")[-1].content)


def ends_as(api, state, **more):
    api.on(f"GET /v1/jobs/{ID}", job("running"), job(state, **more))
    end = event(3, "state", **{"from": "running", "to": state, "reason": None})
    metrics = event(2, "metrics", step=1, max_steps=2, eta_s=5, metrics={"loss": 2.5, "tokens_per_second": 900.0})
    api.on(f"GET /v1/jobs/{ID}/events", sse(event(1, "state", **{"from": "starting", "to": "running"}), metrics, end))


def test_a_dataset_beside_the_yaml_is_uploaded_once(taken, run, spec):
    first = run("submit", str(spec))
    second = run("submit", str(spec))
    assert (first.code, second.code) == (0, 0)
    assert len(taken.seen("POST /v1/files")) == 1
    assert posted(taken) == {"name": "tone", "dataset": "file-1", "training_args": {"learning_rate": 5e-6}}
    assert first.out.startswith(ID)
    assert "is there already" in second.err


def test_set_changes_a_field(taken, run, spec):
    run("submit", str(spec), "--set", "training_args.learning_rate=1e-5", "--set", "resources.gpus=2")
    assert posted(taken)["training_args"] == {"learning_rate": 1e-5}
    assert posted(taken)["resources"] == {"gpus": 2}


def test_json_is_all_there_is_on_stdout(taken, run, spec):
    ends_as(taken, "succeeded")
    assert json.loads(run("submit", str(spec), "--json").out)["id"] == ID
    waited = run("submit", str(spec), "--wait", "--json")
    assert json.loads(waited.out)["state"] == "succeeded"


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3)])
def test_wait_ends_with_the_outcome(taken, run, spec, state, code):
    ends_as(taken, state)
    done = run("submit", str(spec), "--wait")
    assert done.code == code
    assert "step 1/2 (50%)  loss 2.5  900 tokens/s  ETA 0:05" in done.out


def test_a_failed_job_says_why(taken, run, spec):
    error = {
        "code": "cuda_oom",
        "message": "out of memory",
        "hint": "a smaller batch",
        "log_tail": "line one\nline two",
    }
    ends_as(taken, "failed", error=error)
    done = run("submit", str(spec), "--wait")
    for text in ("cuda_oom", "out of memory", "a smaller batch", "line two"):
        assert text in done.err


def test_a_422_is_a_table_with_the_line_of_each_field(taken, run, spec):
    errors = [{"path": "training_args.learning_rate", "message": "must be below 1", "code": "x"}]
    taken.on("POST /v1/jobs", problem(422, "invalid_input", "the job cannot be taken", errors=errors, hint="see docs"))
    done = run("submit", str(spec))
    assert done.code == 2
    assert done.out == ""
    row = next(line for line in done.err.splitlines() if "learning_rate" in line)
    assert row.split() == ["training_args.learning_rate", "4", "must", "be", "below", "1"]
    assert "Hint: see docs" in done.err


def test_a_422_with_json_is_json(taken, run, spec):
    errors = [{"path": "dataset", "message": "row 3 has no answer", "code": "x", "row": 3}]
    taken.on("POST /v1/jobs", problem(422, "invalid_dataset", "no", errors=errors))
    done = run("submit", str(spec), "--json")
    assert done.code == 2
    assert json.loads(done.out)["error"]["fields"] == [
        {"path": "dataset", "message": "row 3 has no answer", "code": "x", "row": 3}
    ]


def test_a_dataset_that_is_not_there_is_named_with_its_line(taken, run, spec):
    spec.write_text("name: tone\ndataset: none.jsonl\n")
    done = run("submit", str(spec))
    assert done.code == 2
    assert "dataset (line 2)" in done.err
    assert "none.jsonl" in done.err
    assert not taken.requests


def test_broken_yaml_is_named_with_its_line(taken, run, spec):
    spec.write_text("name: tone\ntraining_args: {a: 1\nmore: 2\n")
    done = run("submit", str(spec))
    assert done.code == 2
    assert "job.yaml, line 3" in done.err


def test_a_file_id_is_left_as_it_is(taken, run, spec):
    spec.write_text("name: tone\ndataset: file-abc\n")
    assert run("submit", str(spec)).code == 0
    assert posted(taken)["dataset"] == "file-abc"


def test_ctrl_c_leaves_the_job_running_and_says_so(taken, run, spec, monkeypatch):
    ends_as(taken, "succeeded")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("opensloth.cli.progress.JobProgress.apply", interrupted)
    done = run("submit", str(spec), "--wait")
    assert done.code == 130
    assert f"{ID} goes on" in done.err
    assert not taken.seen(f"POST /v1/jobs/{ID}/cancel")
