"""From a request to the events of an engine's answer: waits for the engine, asks it, and asks another if it is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from opensloth.accounts.callers import Caller
from opensloth.chat.service import ChatService, Coming, Engine, Served
from opensloth.chat.wire import LINE_BYTES, RETRYABLE, Ask, EngineError, Event
from opensloth.errors import FieldError, InvalidInput, NoDevice, NotFound, OpenSlothError, Unavailable

START_S = 900.0
"""How long an engine that has its device may take until it answers."""
CONNECT_S = 5.0
UNSURE_S = 60.0
"""By so much the moment may be wrong at which a device is expected: until then a request waits for it."""
LEAST_AWAY_S, MOST_AWAY_S = 15.0, 3600.0
"""When to come again where there was no device."""
MOST_LOST = 2
"""Engines that one request may lose before it is taken for the cause."""
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.05, 0.5


class EngineLost(Exception):
    """The engine went away in the middle of an answer."""


async def ready_engine(chat: ChatService, served: Served, caller: Caller, wait_s: float) -> Engine:
    """An engine for `served` that answers; waits for a device up to `wait_s` seconds, and then for its model.

    Raises Unavailable where there is no device so long, and what an engine failed of. No connection to the database is
    held while it waits.
    """
    began, placed_at, pause = time.monotonic(), None, _FIRST_LOOK_S
    awaited: str | None = None
    try:
        while True:
            found = await _look(chat, served, caller, awaited)
            if isinstance(found, Engine):
                return found
            if found.job_id != awaited:
                chat.wait_for(found.job_id)
                await _forget(chat, awaited, caller)
                awaited, placed_at = found.job_id, None
            now = time.monotonic()
            placed_at = (placed_at or now) if found.state == "starting" else None
            _check_patience(found, served, now - began, wait_s, None if placed_at is None else now - placed_at)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_LOOK_S)
    finally:
        # Also where the client has gone: the engine is not started for nobody.
        await asyncio.shield(_forget(chat, awaited, caller))


async def _look(chat: ChatService, served: Served, caller: Caller, awaited: str | None) -> Engine | Coming:
    """`ChatService.look`, once for all who wait for the same: hundreds may, and each look reads the database."""
    key = (served.key, caller.team, awaited)
    if key not in chat.looks:
        task = asyncio.create_task(asyncio.to_thread(chat.look, served, caller, awaited))
        chat.looks[key] = task
        task.add_done_callback(lambda _: chat.looks.pop(key, None))
    # One who goes away does not take the look from the others.
    return await asyncio.shield(chat.looks[key])


async def _forget(chat: ChatService, job_id: str | None, caller: Caller) -> None:
    if job_id is not None:
        await asyncio.to_thread(chat.wait_no_more, job_id, caller)


def _check_patience(found: Coming, served: Served, waited_s: float, wait_s: float, starting_s: float | None) -> None:
    far_s = found.free_in_s or 0.0
    in_vain = far_s > wait_s - waited_s + UNSURE_S
    if starting_s is None and (waited_s > wait_s or in_vain):
        when = "now, nor soon" if in_vain else f"within {wait_s:.0f} s"
        known = "" if found.free_in_s is not None else "; when one will be is not known"
        raise NoDevice(
            f"no device is free for {served.model_id} {when}"
            + (f": it waits for {found.waits_for}{known}" if found.waits_for else ""),
            hint="ask again later; `opensloth top` shows what has the devices and what is before it",
            retry_after_s=min(max(far_s, LEAST_AWAY_S), MOST_AWAY_S),
        )
    if starting_s is not None and starting_s > START_S:
        raise Unavailable(
            f"the engine of {served.model_id} did not answer within {START_S:.0f} s",
            code="engine_slow",
            hint=f"`opensloth logs {found.job_id}` shows what it does",
        )


async def answer(
    chat: ChatService, served: Served, caller: Caller, ask: Ask, wait_s: float
) -> AsyncGenerator[tuple[Event, Engine], None]:
    """The events of the answer, each with the engine that it comes from; closing it takes the request back.

    Raises OpenSlothError for what is refused, and EngineLost where an engine was lost after its first words.
    """
    lost: set[str] = set()
    deadline = time.monotonic() + wait_s
    while True:
        engine = await ready_engine(chat, served, caller, wait_s)
        said = False
        try:
            async with aclosing(_events(engine, ask)) as events:
                async for event in events:
                    if event.error is not None:
                        if event.error.code in RETRYABLE:
                            raise EngineLost(event.error.message)
                        raise as_error(event.error)
                    said = said or bool(event.text or event.logprobs or event.finish)
                    yield event, engine
                    if event.done:
                        return
            raise EngineLost("the engine ended before its answer was complete")
        except (EngineLost, OSError) as error:
            why = str(error) or "the connection to the engine broke"
            if said:
                raise EngineLost(why) from error
            lost.add(engine.job_id)
            # One that was lost may look alive until its worker, or its lease, says that it is not.
            if len(lost) > MOST_LOST or time.monotonic() > deadline:
                text = f"the engine of {served.model_id} was lost: {why}"
                raise Unavailable(text, code="engine_lost", hint="try again in a moment") from error
            await asyncio.sleep(_LONGEST_LOOK_S)


async def _events(engine: Engine, ask: Ask) -> AsyncGenerator[Event, None]:
    opening = asyncio.open_connection(engine.address, engine.port, limit=LINE_BYTES)
    reader, writer = await asyncio.wait_for(opening, CONNECT_S)
    try:
        hello = {"token": engine.token, "ask": ask.model_dump(exclude_defaults=True)}
        writer.write(json.dumps(hello).encode() + b"\n")
        await writer.drain()
        while line := await reader.readline():
            yield Event.model_validate_json(line)
    finally:
        writer.close()


def as_error(error: EngineError) -> OpenSlothError:
    """What the engine refused, as an error of ours."""
    fields = [FieldError(error.param, error.message, error.code)] if error.param else []
    if error.code == "model_not_found":
        return NotFound(error.message, code=error.code, fields=fields)
    if error.code in ("engine_overloaded", "engine_failed"):
        return Unavailable(error.message, code=error.code, hint="try again in a moment")
    return InvalidInput(error.message, code=error.code, fields=fields)
