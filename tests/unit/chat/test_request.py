"""Bodies are read strictly: what is wrong or not done is named."""

from __future__ import annotations

from typing import Any

import pytest

from api.openai.errors import message_of
from opensloth.chat.request import ChatCompletion, Completion, parse_chat, parse_completion
from opensloth.errors import InvalidInput

HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "out_of_range"),
        ({"temperature": "hot"}, "temperature", "wrong_type"),
        ({"n": 0}, "n", "out_of_range"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid"),
        ({"stop": [""]}, "stop", "invalid"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "invalid"),
        ({"messages": []}, "messages", "out_of_range"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_parameter"),
    ],
)
def test_what_is_wrong_in_a_conversation_is_named(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_chat({"model": "tiny", "messages": HI, **body})
    assert (refused.value.fields[0].path, refused.value.fields[0].code) == (param, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["x"] * 65, "n": 2}, "n"),
        ({"prompt": [1, "x"]}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "x", "echo": True, "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "logprobs": 6}, "logprobs"),
    ],
)
def test_what_is_wrong_in_a_completion_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_completion({"model": "tiny", **body})
    assert refused.value.fields[0].path == param


def test_a_prompt_that_is_to_be_scored_alone_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="log probabilities of a prompt are not told") as refused:
        parse_completion({"model": "tiny", "prompt": "x", "max_tokens": 0})
    assert [(field.path, field.code) for field in refused.value.fields] == [("max_tokens", "unsupported_parameter")]


def test_a_list_of_the_wrong_length_is_told_in_words_for_people() -> None:
    with pytest.raises(InvalidInput, match=r"^messages: should have at least 1 item, not 0$"):
        parse_chat({"model": "tiny", "messages": []})


def test_a_mistake_of_the_whole_body_is_told_without_an_empty_name() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_chat([])
    assert message_of(refused.value) == "the body is not valid: the body is a JSON object"


def test_a_body_without_a_model_or_that_is_no_object_is_refused() -> None:
    for body, path in (({"messages": HI}, "model"), ([], ""), (None, ""), ("x", "")):
        with pytest.raises(InvalidInput) as refused:
            parse_chat(body)
        assert refused.value.fields[0].path == path


def test_what_is_asked_has_openais_defaults() -> None:
    ask = parse_chat({"model": "tiny", "messages": HI, "logprobs": True, "stop": "x", "temperature": 0}).ask("key")
    assert (ask.max_tokens, ask.n, ask.stop, ask.adapter) == (None, 1, ["x"], "key")
    assert (ask.sampling.temperature, ask.sampling.top_p, ask.sampling.logprobs) == (0.0, 1.0, 0)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    spoken = parse_chat({"model": "tiny", "messages": [{"role": "developer", "content": parts}]}).ask(None)
    assert spoken.messages == [{"role": "system", "content": "ab"}]
    text = parse_completion({"model": "tiny", "prompt": [[1, 2], [3]]}).ask(None)
    assert (text.prompts, text.max_tokens, text.sampling.logprobs) == ([[1, 2], [3]], 16, None)


@pytest.mark.parametrize("body", [ChatCompletion, Completion])
def test_what_may_be_left_out_may_be_null_also_by_the_schema(body: type[ChatCompletion] | type[Completion]) -> None:
    schema = body.model_json_schema()
    for name in schema["properties"].keys() - set(schema["required"]) - {"prompt"}:
        assert {"type": "null"} in schema["properties"][name]["anyOf"], name
