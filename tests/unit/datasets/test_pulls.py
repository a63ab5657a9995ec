"""Datasets of the hub, fetched from a fake of its HTTP endpoint: real Parquet, JSONL, shards, and what goes wrong."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from opensloth.datasets.pulls import PullView
from opensloth.datasets.rows import DatasetPullRow
from opensloth.errors import Conflict, InvalidInput
from opensloth.jobs.script import script_of
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.fake_hub import FakeHub, Published, serve_hub
from tests.support.jobs import ADMIN, add_model, body

TOKEN = "hf_the+right/token"
HOST = "box"
SFT = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(5)]

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub(TOKEN) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr("opensloth.hub._PAUSES_S", (0.01,))
        yield served


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]], schema: pyarrow.Schema | None = None) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


def pull(services: Services, dataset: str, secret: str | None = None) -> PullView:
    """Ask for a dataset, and fetch what waits as a worker does."""
    asked = services.pulls.create(dataset, secret, ADMIN)
    run_all(services)
    return services.pulls.get(asked.id, ADMIN)


def run_all(services: Services) -> None:
    while claimed := services.pulls.claim(HOST):
        services.pulls.run(claimed, HOST)


def rows_of(services: Services, pulled: PullView) -> list[dict[str, Any]]:
    assert pulled.status == "ready", pulled.error
    row = services.files.row(str(pulled.file), ADMIN)
    path = services.storage.local_path(row.storage_key)
    assert path is not None
    if row.container == "parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_single_file_becomes_a_file_as_it_is(services: Services, hub: FakeHub) -> None:
    content = parquet(SFT)
    hub.publish("datasets/org/rows", {"README.md": b"# Rows", "data/train-00000-of-00001.parquet": content})
    pulled = pull(services, "org/rows")
    file = services.files.get(str(pulled.file), ADMIN)
    published = hub.published["datasets/org/rows"].at("main")
    assert published is not None
    assert (file.filename, file.bytes, file.status) == ("rows-train.parquet", len(content), "processed")
    assert (file.source, file.commit) == ("org/rows", published[0])
    assert rows_of(services, pulled) == SFT
    assert services.previews.preview(file.id, ADMIN, training_type="sft").total_rows == 5


def test_shards_of_parquet_become_one_file_with_all_columns(services: Services, hub: FakeHub) -> None:
    more = [{"prompt": "More?", "completion": None, "level": 3}]
    narrow = pyarrow.schema([("prompt", "string"), ("completion", "large_string"), ("level", "int32")])
    files = {
        "data/train-00000-of-00002.parquet": parquet(SFT),
        "data/train-00001-of-00002.parquet": parquet(more, narrow),
    }
    hub.publish("datasets/org/shards", files)
    assert rows_of(services, pull(services, "org/shards")) == [{**row, "level": None} for row in SFT] + more


def test_text_files_become_one_jsonl(services: Services, hub: FakeHub) -> None:
    hub.publish(
        "datasets/org/text",
        {
            "train/a.jsonl.gz": gzip.compress(jsonl(SFT[:2])),
            "train/b.json": json.dumps(SFT[2:4]).encode(),
            "train/c.jsonl": jsonl(SFT[4:]).rstrip(b"\n"),
        },
    )
    pulled = pull(services, "org/text")
    assert rows_of(services, pulled) == SFT
    assert services.files.get(str(pulled.file), ADMIN).filename == "text-train.jsonl"


def test_a_revision_a_configuration_and_a_split_are_those_that_were_named(services: Services, hub: FakeHub) -> None:
    card = {"configs": [{"config_name": name, "data_files": f"{name}/*.csv"} for name in ("en", "de")]}
    old, new = ({"en/x.csv": b"text\n" + word, "de/x.csv": b"text\nDeutsch\n"} for word in (b"old\n", b"new\n"))
    hub.published["datasets/org/two"] = Published({"main": new, "v1": old, "refs/pr/1": old}, card)
    commit = hub.published["datasets/org/two"].at("v1")
    assert commit is not None
    for name, expected in {
        "org/two:en": "new",
        "org/two@v1:en": "old",
        "org/two@refs/pr/1:en[train]": "old",
        f"org/two@{commit[0]}:en": "old",
        "org/two:de": "Deutsch",
    }.items():
        pulled = pull(services, name)
        row = services.files.row(str(pulled.file), ADMIN)
        path = services.storage.local_path(row.storage_key)
        assert path is not None
        assert path.read_text().splitlines() == ["text", expected], name


def test_a_commit_is_fetched_once_and_a_new_one_anew(services: Services, hub: FakeHub) -> None:
    repository = hub.publish("datasets/org/rows", {"train.jsonl": jsonl(SFT)})
    first = pull(services, "org/rows")
    again = pull(services, "org/rows")
    assert again.id != first.id
    assert (again.file, hub.downloads) == (first.file, ["train.jsonl"])
    repository.revisions["main"] = {"train.jsonl": jsonl(SFT[:1])}
    third = pull(services, "org/rows")
    assert third.file != first.file
    assert (rows_of(services, first), rows_of(services, third)) == (SFT, SFT[:1])
    old = str(services.files.get(str(first.file), ADMIN).commit)
    job, _ = submit(services, f"org/rows@{old}")
    assert job.state == "queued"
    assert job.dataset_id == first.file


def submit(services: Services, dataset: str, **more: Any) -> Any:
    with services.database.read() as session:
        from opensloth.models.rows import ModelRow

        known = session.get(ModelRow, "tiny")
    if known is None:
        add_model(services)
    return services.jobs.submit(body(services, dataset, **more), ADMIN)


def test_two_jobs_wait_for_one_fetching_and_are_queued_by_it(services: Services, hub: FakeHub) -> None:
    hub.publish("datasets/org/rows", {"train.jsonl": jsonl(SFT), "test.jsonl": jsonl(SFT[:1])})
    first, _ = submit(services, "org/rows")
    second, _ = submit(services, "org/rows", eval_dataset="org/rows[test]")
    assert (first.state, second.state, first.dataset_id) == ("waiting", "waiting", None)
    (event,) = services.events.list(first.id)
    assert "org/rows, which is fetched from the hub" in event.message
    run_all(services)
    first, second = (services.jobs.get(job.id, ADMIN) for job in (first, second))
    assert (first.state, second.state) == ("queued", "queued")
    assert first.dataset_id == second.dataset_id
    assert services.files.get(str(second.eval_dataset_id), ADMIN).filename == "rows-test.jsonl"
    assert sorted(hub.downloads) == ["test.jsonl", "train.jsonl"]


def test_a_job_that_waits_for_a_job_too_waits_for_both(services: Services, hub: FakeHub) -> None:
    hub.publish("datasets/org/rows", {"train.jsonl": jsonl(SFT)})
    before, _ = submit(services, "org/rows")
    after, _ = submit(services, "org/rows", depends_on=before.id)
    run_all(services)
    assert services.jobs.get(before.id, ADMIN).state == "queued"
    assert services.jobs.get(after.id, ADMIN).state == "waiting"
    services.control.cancel(before.id, ADMIN)
    assert services.jobs.get(after.id, ADMIN).state == "cancelled"


def test_a_cancelled_job_stays_cancelled_when_its_dataset_comes(services: Services, hub: FakeHub) -> None:
    hub.publish("datasets/org/rows", {"train.jsonl": jsonl(SFT)})
    job, _ = submit(services, "org/rows")
    services.control.cancel(job.id, ADMIN)
    run_all(services)
    assert services.jobs.get(job.id, ADMIN).state == "cancelled"


@pytest.mark.parametrize(
    ("files", "name", "reason", "said"),
    [
        ({"train.jsonl": b""}, "org/bad", "dataset_error", "the file is empty"),
        ({"train.parquet": parquet(SFT, None)[:-20]}, "org/bad", "dataset_error", "Parquet"),
        ({"train.jsonl": b'{"a": 1}\n{"a": \n'}, "org/bad", "dataset_error", "row 2"),
        ({"a.jsonl": jsonl(SFT), "b.jsonl": b'{"prompt"'}, "org/bad", "dataset_error", "b.jsonl: row 1"),
        ({"a.csv": b"a,b\n1,2\n", "b.csv": b"a,b\n1,2,3\n"}, "org/bad", "dataset_error", "b.csv: row 1"),
        ({"a.jsonl": b"", "b.jsonl": b"\n"}, "org/bad", "dataset_error", "empty"),
        ({"train.jsonl": jsonl([{"strange": 1}])}, "org/bad", "dataset_error", "the row has `strange`"),
        ({"train.jsonl": jsonl(SFT), "x.parquet": b""}, "org/bad:fr", "dataset_not_found", "no configuration"),
        ({"train.jsonl": jsonl(SFT)}, "org/bad@v9", "dataset_not_found", "no such revision"),
        ({"train.jsonl": jsonl(SFT)}, "org/missing", "dataset_not_found", "does not show it without a token"),
        ({"run.py": b"raise SystemExit"}, "org/bad", "dataset_not_found", "no code of a dataset is run"),
    ],
)
def test_a_job_whose_dataset_does_not_come_fails_and_says_which_and_why(
    services: Services, hub: FakeHub, files: dict[str, bytes], name: str, reason: str, said: str
) -> None:
    hub.publish("datasets/org/bad", files)
    hub.publish("datasets/org/good", {"train.jsonl": jsonl(SFT)})
    job, _ = submit(services, "org/good", eval_dataset=name)
    run_all(services)
    job = services.jobs.get(job.id, ADMIN)
    assert (job.state, job.reason) == ("failed", reason)
    assert job.error is not None
    assert "eval_dataset" in job.error.message
    assert said in job.error.message


def test_zero_rows_of_parquet_are_refused_alone_and_in_shards(services: Services, hub: FakeHub) -> None:
    empty = parquet([], pyarrow.schema([("prompt", "string"), ("completion", "string")]))
    hub.publish("datasets/org/none", {"train.parquet": empty})
    hub.publish("datasets/org/nones", {"a.parquet": empty, "b.parquet": empty})
    for name in ("org/none", "org/nones"):
        pulled = pull(services, name)
        assert (pulled.status, pulled.reason) == ("failed", "dataset_error")
        assert "no rows" in str(pulled.error)


def test_a_gated_dataset_needs_the_token_of_a_secret_which_nothing_shows(services: Services, hub: FakeHub) -> None:
    hub.publish("datasets/org/gated", {"train.jsonl": jsonl(SFT)}, gated=True)
    hub.publish("datasets/org/private", {"train.jsonl": jsonl(SFT)}, private=True)
    services.secrets.put("hf", TOKEN, ADMIN)
    services.secrets.put("stale", "hf_wrong", ADMIN)
    refused = pull(services, "org/gated")
    assert (refused.status, refused.reason) == ("failed", "hub_refused")
    assert "secrets.hub" in str(refused.error)
    assert pull(services, "org/private").reason == "dataset_not_found"
    stale = pull(services, "org/gated", "stale")
    assert (stale.reason, "hf_wrong" in str(stale)) == ("hub_refused", False)
    assert rows_of(services, pull(services, "org/gated", "hf")) == SFT
    assert rows_of(services, pull(services, "org/private", "hf")) == SFT
    with pytest.raises(InvalidInput) as error:
        submit(services, "org/gated", secrets={"hub": "none"})
    assert error.value.fields[0].path == "secrets.hub"
    job, _ = submit(services, "org/gated", secrets={"hub": "hf"})
    run_all(services)
    assert services.jobs.get(job.id, ADMIN).state == "queued"


def test_a_file_that_is_deleted_while_a_pull_finds_it_is_fetched_again(
    services: Services, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("datasets/org/rows", {"train.jsonl": jsonl(SFT)})
    old = str(pull(services, "org/rows").file)
    asked = services.pulls.create("org/rows", None, ADMIN)
    claimed = services.pulls.claim(HOST)
    assert claimed == asked.id
    find = services.pulls._file_of

    def find_and_lose(row: DatasetPullRow) -> str:
        found = find(row)
        services.files.delete(old, ADMIN)
        return found

    monkeypatch.setattr(services.pulls, "_file_of", find_and_lose)
    services.pulls.run(claimed, HOST)
    assert services.pulls.get(asked.id, ADMIN).status == "importing"
    monkeypatch.setattr(services.pulls, "_file_of", find)
    services.pulls.run(claimed, HOST)
    assert services.pulls.get(asked.id, ADMIN).file not in (None, old)


def test_there_is_no_script_before_the_dataset_is_here(services: Services) -> None:
    job, _ = submit(services, "org/rows")
    with pytest.raises(Conflict):
        script_of(services.database, services.models, job.id, ADMIN)


def test_a_secret_that_was_deleted_meanwhile_fails_the_job(services: Services, hub: FakeHub) -> None:
    services.secrets.put("hf", TOKEN, ADMIN)
    job, _ = submit(services, "org/gated", secrets={"hub": "hf"})
    services.secrets.delete("hf", ADMIN)
    run_all(services)
    job = services.jobs.get(job.id, ADMIN)
    assert (job.state, job.reason) == ("failed", "input_deleted")


def test_a_hub_that_does_not_answer_is_named(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("opensloth.hub._PAUSES_S", (0.01,))
    pulled = pull(services, "org/rows")
    assert (pulled.status, pulled.reason) == ("failed", "hub_unavailable")
    assert "http://127.0.0.1:9 cannot be reached" in str(pulled.error)


def test_what_is_larger_than_an_upload_may_be_is_not_fetched(
    settings: Settings, database_url: str, hub: FakeHub
) -> None:
    small = Services.make(settings.model_copy(update={"max_upload_bytes": 600}))
    hub.publish("datasets/org/large", {"train.jsonl": jsonl(SFT * 10)})
    hub.publish("datasets/org/packed", {f"{n}.jsonl.gz": gzip.compress(jsonl(SFT * 100)) for n in range(2)})
    for name in ("org/large", "org/packed"):
        pulled = pull(small, name)
        assert (pulled.status, pulled.reason) == ("failed", "dataset_error")
        assert "600" in str(pulled.error)
    assert "train.jsonl" not in hub.downloads
    assert list(small.storage.scratch(settings.home).iterdir()) == []


def test_what_is_asked_for_twice_at_once_is_one_pull(services: Services, hub: FakeHub) -> None:
    asked: list[str] = []

    def ask() -> None:
        asked.append(services.pulls.create("org/rows", None, ADMIN).id)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 4
    assert len(set(asked)) == 1


def test_the_rows_that_are_trained_on_are_not_those_to_evaluate_on(services: Services) -> None:
    with pytest.raises(InvalidInput) as error:
        submit(services, "org/rows", eval_dataset="org/rows")
    assert error.value.fields[0].path == "eval_dataset"
