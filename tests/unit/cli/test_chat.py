"""`opensloth chat`: one question, a conversation, and several models side by side."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.support.fake_api import job, problem

CHAT = "POST /v1/chat/completions"


def stream(*texts: str, end: str = "data: [DONE]\n\n") -> httpx.Response:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return httpx.Response(200, text=lines + end, headers={"content-type": "text/event-stream"})


def by_model(request: httpx.Request) -> httpx.Response:
    asked = json.loads(request.content)
    return stream("I am ", asked["model"], f", asked {len(asked['messages'])}")


def test_a_question_is_answered_as_it_comes(run, api):
    api.on(CHAT, stream("Par", "is."))
    result = run("chat", "tiny", "What is the capital of France?", "--temperature", "0", "--max-tokens", "9")
    assert (result.code, result.out) == (0, "Paris.\n")
    sent = json.loads(api.seen(CHAT)[0].content)
    assert sent["messages"] == [{"role": "user", "content": "What is the capital of France?"}]
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["stream"]) == ("tiny", 0.0, 9, True)


def test_models_answer_side_by_side_and_one_that_fails_does_not_stop_the_others(run, api):
    def answer(request):
        if json.loads(request.content)["model"] == "gone":
            return problem(404, "model_not_found", "The model `gone` does not exist.")
        return by_model(request)

    api.on(CHAT, answer)
    result = run("chat", "--compare", "one,gone", "Who are you?", "--system", "Be short.")
    assert result.code == 1
    assert result.out == "== one\nI am one, asked 2\n== gone\nThe model `gone` does not exist.\n"
    shown = run("chat", "--compare", "one,two", "Who are you?", "--json")
    assert [entry["answer"] for entry in json.loads(shown.out)["answers"]] == [
        "I am one, asked 1",
        "I am two, asked 1",
    ]


def test_the_newest_job_is_not_an_engine(run, api):
    engine, trained = {**job(), "kind": "chat"}, {**job("succeeded"), "id": "ftjob-" + "b" * 24}
    api.on("GET /v1/jobs", {"object": "list", "data": [engine, trained], "has_more": False})
    api.on(CHAT, by_model)
    result = run("chat", "last", "Who?")
    assert result.out == f"I am {trained['id']}, asked 1\n"


@pytest.mark.parametrize(
    "end",
    ["", 'data: {"error": {"message": "the answer broke off", "type": "server_error", "code": "engine_lost"}}\n\n'],
)
def test_an_answer_that_breaks_off_is_an_error_and_what_came_is_shown(run, api, end):
    api.on(CHAT, stream("Par", end=end))
    result = run("chat", "tiny", "Where?")
    assert result.code == 1
    assert result.out == "Par\n"
    assert "broke off" in result.err


@pytest.mark.parametrize("arguments", [["chat"], ["chat", "one", "--compare", "two", "Hi"], ["chat", "tiny", ""]])
def test_wrong_usage_asks_nobody(run, api, arguments):
    result = run(*arguments)
    assert result.code == 2
    assert api.requests == []
