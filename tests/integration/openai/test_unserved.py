"""What of OpenAI's interface is not here says so, and what to use instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from api.rules import PARTS
from api.unserved import LEFT_OUT

CALLS: list[tuple[Callable[[openai.OpenAI], Any], str]] = [
    (lambda client: client.responses.create(model="tiny", input="Hi"), "POST /v1/responses"),
    (lambda client: client.embeddings.create(model="tiny", input="Hi"), "POST /v1/embeddings"),
    (lambda client: client.evals.list(), "/evaluations"),
    (lambda client: client.batches.list(), "batches"),
    (lambda client: client.beta.assistants.list(), "/v1/chat/completions"),
    (lambda client: client.chat.completions.list(), "keep the answers"),
    (lambda client: client.chat.completions.retrieve("chatcmpl-1"), "keep the answers"),
    (lambda client: client.chat.completions.delete("chatcmpl-1"), "keep the answers"),
    (lambda client: client.images.generate(prompt="a sloth"), "images"),
    (lambda client: client.audio.speech.create(model="tiny", voice="a", input="Hi"), "speech"),
]


def test_a_part_that_is_not_served_is_named_with_what_is(client: openai.OpenAI) -> None:
    for call, told in CALLS:
        with pytest.raises(openai.NotFoundError) as refused:
            call(client)
        error = refused.value
        assert (error.code, error.type, error.param) == ("not_supported", "invalid_request_error", None)
        assert told in error.message
        assert "fine-tuning jobs" in error.message


def test_each_part_of_the_sdk_is_served_or_named() -> None:
    resources = Path(openai.__file__).parent / "resources"
    paths = (
        re.findall(r"self\._(?:get|post|delete|get_api_list)\(\s*(?:path_template\()?\"/(\w+)", file.read_text())
        for file in resources.rglob("*.py")
    )
    parts = {part for found in paths for part in found}
    assert {"fine_tuning", "chat", "responses"} <= parts
    assert parts - {*LEFT_OUT, *PARTS} == set()


def test_a_base_url_without_or_with_two_v1_is_told_so(base_url: str, key: str) -> None:
    for wrong, told in ((base_url.removesuffix("/v1"), "does not"), (f"{base_url}/v1", "once")):
        with pytest.raises(openai.NotFoundError, match=told):
            openai.OpenAI(base_url=wrong, api_key=key, max_retries=0).fine_tuning.jobs.list()


def test_a_method_that_a_path_does_not_have_is_answered_with_those_that_it_has(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="DELETE is not served at /v1/completions, only POST") as refused:
        client.delete("/completions", cast_to=object)
    assert refused.value.status_code == 405
