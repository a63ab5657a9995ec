"""`/v1/chat/completions` and `/v1/completions`: an engine's answers, passed on as they come."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from api.bodies import json_body
from api.body import JsonBody
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.openai.completions import Answer, ChatCompletionObject, CompletionObject
from api.openai.errors import OpenAIRoute, openai_error
from api.streaming.alive import kept_alive
from api.streaming.gone import unless_gone
from api.streaming.hub import HEARTBEAT_S
from api.streaming.response import EndlessResponse
from opensloth.accounts.callers import Caller
from opensloth.chat.proxy import EngineLost, answer
from opensloth.chat.request import ChatCompletion, Completion, parse_chat, parse_completion
from opensloth.chat.service import Served
from opensloth.chat.wire import Ask
from opensloth.errors import OpenSlothError, Unavailable
from opensloth.services import Services

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["chat"], dependencies=[Depends(strict_query)], route_class=OpenAIRoute)

STATUS_S = 5.0
"""What a stream waits for its first words, which decide about the status: until then it can be an error of its own.
An engine that starts takes longer than some proxies wait for an answer's head, so that an error is a line after it."""
_TRIES = 3
"""An answer that is not streamed has reached nobody: one that breaks off is made anew."""


CHAT_EXAMPLE = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
TEXT_EXAMPLE = {"model": "smollm2-135m", "prompt": "The capital of France is", "max_tokens": 8}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, chunks of it as server-sent events, the last one `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post(
    "/chat/completions",
    openapi_extra=json_body(ChatCompletion, question=CHAT_EXAMPLE),
    response_model=ChatCompletionObject,
    responses=_EVENTS,
)
async def chat(request: Request, body: JsonBody, services: ServicesDep, caller: CallerDep) -> Response:
    """Answer a conversation with a registered model, a result, or a checkpoint of a job.

    The model's engine is started on a device by itself and given back when nobody asks any more; the first answer
    waits for that. `tools` and a `response_format` of JSON are refused by name.
    """
    asked = parse_chat(body)
    served = await asyncio.to_thread(services.chat.resolve, asked.model, caller)
    ask = asked.ask(served.adapter)
    made = Answer("chat", served.model_id, ask.n, bool(asked.logprobs), asked.wants_usage)
    return await _respond(request, services, caller, served, ask, made, stream=bool(asked.stream))


@router.post(
    "/completions",
    openapi_extra=json_body(Completion, beginning=TEXT_EXAMPLE),
    response_model=CompletionObject,
    responses=_EVENTS,
)
async def complete(request: Request, body: JsonBody, services: ServicesDep, caller: CallerDep) -> Response:
    """Go on from a text, or from several at once; as `/v1/chat/completions`, without a chat template."""
    asked = parse_completion(body)
    served = await asyncio.to_thread(services.chat.resolve, asked.model, caller)
    ask = asked.ask(served.adapter)
    answers = len(ask.prompts or []) * ask.n
    made = Answer("text", served.model_id, answers, asked.logprobs is not None, asked.wants_usage)
    return await _respond(request, services, caller, served, ask, made, stream=bool(asked.stream))


async def _respond(
    request: Request, services: Services, caller: Caller, served: Served, ask: Ask, made: Answer, *, stream: bool
) -> Response:
    chunks = _chunks(services, caller, served, ask, made)
    if stream:
        first = await _begun(request, chunks)
        lines = kept_alive(_stream(first, chunks), HEARTBEAT_S)
        return EndlessResponse(lines, "text/event-stream", {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    await chunks.aclose()

    async def whole() -> Answer:
        for left in reversed(range(_TRIES)):
            mine = Answer(made.kind, made.model, made.answers, made.wants_logprobs)
            try:
                async with aclosing(answer(services.chat, served, caller, ask, services.settings.chat_wait_s)) as said:
                    async for event, engine in said:
                        mine.fingerprint = engine.fingerprint
                        mine.take(event)
                return mine
            except EngineLost as error:
                if not left:
                    raise Unavailable(f"the engine was lost: {error}", code="engine_lost") from error
        raise AssertionError

    return JSONResponse((await unless_gone(request, whole)).whole().model_dump())


async def _begun(request: Request, chunks: AsyncGenerator[dict[str, Any], None]) -> asyncio.Future[dict[str, Any]]:
    """The first chunk, or what it will be; raises what is refused at once."""
    first = asyncio.ensure_future(anext(chunks))
    try:
        await unless_gone(request, lambda: asyncio.wait({first}, timeout=STATUS_S))
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await chunks.aclose()
        raise
    return first


async def _chunks(
    services: Services, caller: Caller, served: Served, ask: Ask, made: Answer
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(answer(services.chat, served, caller, ask, services.settings.chat_wait_s)) as said:
        async for event, engine in said:
            made.fingerprint = engine.fingerprint
            for chunk in made.chunks(event):
                yield chunk


async def _stream(
    first: asyncio.Future[dict[str, Any]], rest: AsyncGenerator[dict[str, Any], None]
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(rest):
            yield _line(await first)
            async for chunk in rest:
                yield _line(chunk)
        yield b"data: [DONE]\n\n"
    except EngineLost as error:
        log.warning("a streamed answer broke off: %s", error)
        lost = Unavailable(f"the answer broke off: {error}", code="engine_lost", hint="ask again")
        yield _line({"error": openai_error(lost)})
    except OpenSlothError as error:
        yield _line({"error": openai_error(error)})
    except Exception:
        # The head of the answer is out: what says 500 elsewhere is a line here.
        log.exception("a streamed answer failed")
        yield _line(
            {"error": openai_error(OpenSlothError("the server failed; its log says how", code="internal_error"))}
        )


def _line(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
