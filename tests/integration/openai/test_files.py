"""`client.files` against the service: shapes, rows as OpenAI documents them, and files that go by themselves."""

from __future__ import annotations

import json
import time

import openai
import pytest
from sqlalchemy import update

from opensloth.datasets.rows import FileRow
from opensloth.services import Services
from tests.support.jobs import body

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
DOCUMENTED = {
    "tools": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?", "name": "Ann"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "21 C"},
            {"role": "assistant", "content": "21 degrees."},
        ],
        "tools": [TOOL],
        "parallel_tool_calls": False,
    },
    "function_call": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "21 C"},
            {"role": "assistant", "content": "21 degrees."},
        ],
        "functions": [TOOL["function"]],
    },
    "weights": {
        "messages": [
            {"role": "user", "content": "A"},
            {"role": "assistant", "content": "B", "weight": 0},
            {"role": "user", "content": "C"},
            {"role": "assistant", "content": "D", "weight": 1},
        ]
    },
    "turns": {"messages": [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}, CHAT["messages"][1]]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "A"}]}, CHAT["messages"][1]]},
    "refusal": {
        "messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": None, "refusal": "I cannot."}]
    },
}
PREFERENCE = {
    "input": {"messages": [{"role": "user", "content": "Hi"}], "tools": [], "parallel_tool_calls": True},
    "preferred_output": [{"role": "assistant", "content": "Hello!"}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}


def jsonl(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(client: openai.OpenAI, *rows: object, **more: object) -> openai.types.FileObject:
    return client.files.create(file=("rows.jsonl", jsonl(*rows)), purpose="fine-tune", **more)  # type: ignore[arg-type]


def served(services: Services, file_id: str) -> set[str]:
    check = services.files.check(file_id, services.keys.authenticate(services.keys.create("bob")[1]))
    assert check is not None
    return {name for name, method in check.methods.items() if method.ok}


def test_a_file_goes_through_everything_that_the_sdk_does_with_files(client: openai.OpenAI) -> None:
    first, second = upload(client, CHAT), upload(client, CHAT, CHAT)
    assert client.files.wait_for_processing(first.id).status == "processed"
    assert client.files.retrieve(first.id) == first
    assert client.files.content(second.id).read() == jsonl(CHAT, CHAT)
    assert [file.id for file in client.files.list()] == [second.id, first.id]
    assert [file.id for file in client.files.list(order="asc", limit=1)] == [first.id, second.id]
    assert list(client.files.list(purpose="fine-tune", after=second.id)) == [first]
    assert list(client.files.list(purpose="batch")) == []
    assert client.files.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(first.id)


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_chat_rows_are_taken_as_documented(client: openai.OpenAI, services: Services, name: str) -> None:
    assert "sft" in served(services, upload(client, DOCUMENTED[name]).id)


def test_each_kind_of_row_serves_its_method(client: openai.OpenAI, services: Services) -> None:
    completion = {"prompt": "Hi", "completion": " Hello!"}
    graded = {"messages": [{"role": "user", "content": "1+1?"}], "reference_answer": "2", "meta": {"level": 1}}
    assert "sft" in served(services, upload(client, completion).id)
    assert {"dpo", "orpo"} <= served(services, upload(client, PREFERENCE).id)
    assert served(services, upload(client, graded).id) == {"grpo"}


def test_an_image_is_refused_by_its_row_and_few_rows_only_warned_of(
    client: openai.OpenAI, services: Services, key: str
) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}, CHAT["messages"][1]]}
    file = upload(client, row)
    assert file.status == "error"
    assert "image_url" in str(file.status_details)
    assert "text alone" in str(file.status_details)
    check = services.files.check(upload(client, CHAT).id, services.keys.authenticate(key))
    assert check is not None
    assert "fewer than 10" in check.warnings[0]


def test_bad_requests_are_bad_requests_that_name_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="there is no batch API here") as caught:
        client.files.create(file=("a.jsonl", jsonl(CHAT)), purpose="batch")
    assert caught.value.param == "purpose"
    with pytest.raises(openai.BadRequestError, match="there are no assistants here") as caught:
        client.files.create(file=("a.pdf", b"%PDF-1.7 \xe9"), purpose="assistants")
    assert caught.value.param == "purpose"
    with pytest.raises(openai.BadRequestError, match="row 2"):
        client.files.create(file=("a.jsonl", jsonl(CHAT) + b"{"), purpose="fine-tune")
    for expires, param in [
        ({"anchor": "created_at", "seconds": 60}, "expires_after[seconds]"),
        ({"anchor": "last_active_at", "seconds": 3600}, "expires_after[anchor]"),
        ({"anchor": "created_at"}, "expires_after[seconds]"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            upload(client, CHAT, expires_after=expires)
        assert caught.value.param == param
    assert list(client.files.list()) == []


def test_an_expired_file_is_gone_but_not_from_under_a_job_that_began_with_it(
    client: openai.OpenAI, services: Services
) -> None:
    kept = upload(client, CHAT)
    expires = {"anchor": "created_at", "seconds": 3600}
    used, unused = (upload(client, CHAT, expires_after=expires) for _ in range(2))
    assert unused.expires_at == unused.created_at + 3600
    bob = services.keys.authenticate(client.api_key)
    job_id = services.jobs.submit(body(services, used.id, "steps=5"), bob)[0].id
    with services.database.write() as session:
        session.execute(update(FileRow).where(FileRow.expires_at.is_not(None)).values(expires_at=time.time() - 1))
    assert list(client.files.list()) == [kept]
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(used.id)
    assert services.files.expire() == 1
    assert set(services.storage.list_keys("files")) == {kept.id, used.id}
    services.control.cancel(job_id, bob)
    assert services.files.expire() == 1
    assert services.storage.list_keys("files") == [kept.id]


def test_unknown_files_and_models_are_refused_with_openais_codes(client: openai.OpenAI) -> None:
    for ask in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError) as missing:
            ask("file-none")
        assert (missing.value.code, missing.value.param) == ("not_found", "id")
        assert missing.value.body["message"] == "there is no file 'file-none'"
    for ask in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError) as missing:
            ask("none")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


def test_a_prompt_beyond_all_bounds_is_not_sent_to_the_files(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "x" * 2**20}]
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="tiny", messages=messages)
    assert refused.value.status_code == 413
    assert "shorten the prompt" in refused.value.message.lower()
    assert "/v1/files" not in refused.value.message


def test_the_path_of_a_wrong_key_of_metadata_is_bounded(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(model="tiny", training_file="file-x", metadata={"k" * 5000: "v"})
    assert refused.value.param == "metadata." + "k" * 64
