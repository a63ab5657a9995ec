"""What of OpenAI's interface is not here says so, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

CALLS: list[tuple[Callable[[openai.OpenAI], Any], str]] = [
    (lambda client: client.responses.create(model="tiny", input="Hi"), "POST /v1/responses"),
    (lambda client: client.embeddings.create(model="tiny", input="Hi"), "POST /v1/embeddings"),
    (lambda client: client.evals.list(), "/evaluations"),
    (lambda client: client.batches.list(), "batches"),
    (lambda client: client.beta.assistants.list(), "/v1/chat/completions"),
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


def test_a_base_url_without_or_with_two_v1_is_told_so(base_url: str, key: str) -> None:
    for wrong, told in ((base_url.removesuffix("/v1"), "does not"), (f"{base_url}/v1", "once")):
        with pytest.raises(openai.NotFoundError, match=told):
            openai.OpenAI(base_url=wrong, api_key=key, max_retries=0).fine_tuning.jobs.list()


def test_a_method_that_a_path_does_not_have_is_answered_with_those_that_it_has(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="GET is not served at /v1/chat/completions, only POST") as refused:
        client.chat.completions.list()
    assert refused.value.status_code == 405
