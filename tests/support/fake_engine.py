"""A chat engine without a model: the real protocol, with answers that the last message asks for.

The message is words like `words=5 word_s=0.05 die@3`: that many words come, so far apart, and before the third one the
engine kills itself; `die_once@0` does so unless the file `died` beside its run folders says that one has. Every answer
begins with the adapter that was asked for. `n` answers come one after the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from opensloth.chat.engine.spec import TOKEN, ChatRun, read_chat
from opensloth.chat.wire import LINE_BYTES, Ask, EngineError, Event, Token
from opensloth.training.pulse import STEPS, Pulse
from opensloth.training.records import Records
from opensloth.training.run_spec import EVENTS_NAME
from opensloth.training.secret_values import read_secrets
from opensloth.training.watchdog import start_watchdog

EXIT_STOPPED = 10


class FakeEngine:
    def __init__(self, spec: ChatRun, secret: str) -> None:
        self.spec = spec
        self.secret = secret
        self.busy: set[Any] = set()
        self.taken_back = 0
        self.stopping = False

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readline())
        task = asyncio.current_task()
        self.busy.add(task)
        try:
            if hello["token"] != self.secret:
                return
            if self.stopping:
                await send(writer, Event(error=EngineError(code="engine_stopping", message="the engine stops")))
                return
            answer = asyncio.create_task(self.answer(Ask.model_validate(hello["ask"]), writer))
            gone = asyncio.create_task(reader.read(1))
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                (Path(self.spec.run_dir).parent.parent / "taken_back").write_text("yes")
            answer.cancel()
            gone.cancel()
        finally:
            self.busy.discard(task)
            writer.close()

    async def answer(self, ask: Ask, writer: asyncio.StreamWriter) -> None:
        asked = ask.messages[-1]["content"] if ask.messages else str((ask.prompts or [""])[0])
        words = dict(word.partition("=")[::2] for word in asked.split())
        if "long" in words:
            error = EngineError(code="context_length_exceeded", message="too long", param="messages")
            await send(writer, Event(error=error))
            return
        await send(writer, Event(prompt_tokens=len(asked.split())))
        count = min(int(words.get("words") or 3), ask.max_tokens or 1000)
        for index in range(ask.n * len(ask.prompts or [1])):
            for number in range(count):
                self.maybe_die(words, number)
                await asyncio.sleep(float(words.get("word_s") or 0))
                text = f"[{ask.adapter or 'base'}]" if number == 0 else f" w{number}"
                top = [Token(token=text, bytes=list(text.encode()), logprob=-0.5)]
                told = [Token(token=text, bytes=list(text.encode()), logprob=-0.5, top=top)]
                logprobs = told if ask.sampling.logprobs is not None else []
                await send(writer, Event(index=index, text=text, logprobs=logprobs))
            finish = "length" if count == ask.max_tokens else "stop"
            await send(writer, Event(index=index, finish=finish, tokens=count))
        await send(writer, Event(done=True))

    def maybe_die(self, words: dict[str, str], number: int) -> None:
        died = Path(self.spec.run_dir).parent.parent / "died"
        if f"die@{number}" in words or (f"die_once@{number}" in words and not died.exists()):
            died.write_text("yes")
            os.kill(os.getpid(), signal.SIGKILL)


async def send(writer: asyncio.StreamWriter, event: Event) -> None:
    writer.write(event.model_dump_json(exclude_defaults=True).encode() + b"\n")
    await writer.drain()


async def serve(spec: ChatRun, records: Records, engine: FakeEngine, stop: list[int]) -> int:
    server = await asyncio.start_server(engine.connected, spec.address, 0, limit=LINE_BYTES)
    records.write("started", "started", step=0, resumed_step=0)
    port = server.sockets[0].getsockname()[1]
    records.write("listening", "listening", port=port, fingerprint="fp_fake")
    pulse, idle_since = Pulse(Path(spec.run_dir)), time.monotonic()
    while True:
        await asyncio.sleep(0.02)
        pulse.beat(STEPS, 0.02)
        if engine.busy:
            idle_since = time.monotonic()
        if stop:
            engine.stopping = True
            if engine.busy:
                await asyncio.wait(set(engine.busy), timeout=spec.grace_s)
            records.write("stopped", "stopped", step=0)
            return EXIT_STOPPED
        if time.monotonic() - idle_since > spec.idle_s:
            records.write("result", "idle", artifacts=[], is_model=False, metrics={})
            return 0


def main() -> None:
    start_watchdog()
    secret = read_secrets().get(TOKEN) or ""
    run_dir = Path(sys.argv[1])
    spec = read_chat(run_dir)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    sys.exit(asyncio.run(serve(spec, Records(run_dir / EVENTS_NAME), FakeEngine(spec, secret), stop)))


if __name__ == "__main__":
    main()
