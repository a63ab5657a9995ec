"""The engine's side of the wire: takes requests from whoever has the secret, and answers line by line."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from pydantic import ValidationError

from opensloth.chat.engine.answers import AdapterRef, Piece, Row
from opensloth.chat.engine.loading import Facts, Sources
from opensloth.chat.engine.sampling import Chooser, Sampling
from opensloth.chat.engine.spec import ChatRun
from opensloth.chat.engine.text import TextStream
from opensloth.chat.engine.tokens import Refused, encode, told
from opensloth.chat.wire import LINE_BYTES, Ask, EngineError, Event

log = logging.getLogger(__name__)

_HELLO_S = 10.0
"""How long a connection may take to say who it is and what it wants."""


class Speaks(Protocol):
    """What makes tokens of rows: our decoder, or vLLM."""

    @property
    def load(self) -> int:
        """Rows that are worked on or wait."""

    def knows(self, key: str) -> bool:
        """Whether the adapter needs no reading ahead."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take new rows; each is told its pieces."""

    def cancel(self, rows: Sequence[Row]) -> None:
        """Nobody wants these any more."""

    def fail(self, code: str, message: str) -> None:
        """Tell every row that there will be no more."""


class ChatServer:
    """Serves what speaks; everything but its steps runs in the event loop of one thread."""

    def __init__(self, spec: ChatRun, decoder: Speaks, sources: Sources, facts: Facts, secret: str) -> None:
        self._spec = spec
        self._decoder = decoder
        self._sources = sources
        self._facts = facts
        self._context = facts.context
        self._secret = secret.encode()
        self._reading = ThreadPoolExecutor(2, thread_name_prefix="prompts")
        self._requests: set[asyncio.Task[None]] = set()
        self.stopping = False
        self.requests = 0
        """Taken so far."""

    async def listen(self) -> asyncio.Server:
        """Begin; the port is the system's choice."""
        return await asyncio.start_server(self._connected, self._spec.address, 0, limit=LINE_BYTES)

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._requests)

    async def drain(self, grace_s: float) -> None:
        """Take no more; give what is under way so long to end, and then tell it that it will not."""
        self.stopping = True
        if self._requests:
            await asyncio.wait(self._requests, timeout=grace_s)
        self._decoder.fail("engine_stopping", "the engine gave its device to a job")
        if self._requests:
            await asyncio.wait(self._requests, timeout=2.0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            ask = await asyncio.wait_for(self._hello(reader), _HELLO_S)
            if ask is None:
                return
            self._requests.add(task)
            self.requests += 1
            await self._serve(ask, reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, ValueError):
            return  # it went away, or is nobody we know
        except Exception as error:
            log.exception("a request failed")
            error_line = EngineError(code="engine_failed", message=f"the engine failed: {type(error).__name__}")
            await _send(writer, Event(error=error_line))
        finally:
            self._requests.discard(task)
            writer.close()

    async def _hello(self, reader: asyncio.StreamReader) -> Ask | None:
        line = await reader.readline()
        try:
            hello = json.loads(line)
            known = hmac.compare_digest(str(hello["token"]).encode(), self._secret)
            return Ask.model_validate(hello["ask"]) if known else None
        except (ValueError, KeyError, TypeError, ValidationError):
            return None

    async def _serve(self, ask: Ask, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.stopping:
            await _send(writer, Event(error=EngineError(code="engine_stopping", message="the engine stops")))
            return
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

        def tell(index: int, piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

        try:
            rows, tokenizer = await loop.run_in_executor(self._reading, self._prepare, ask, tell)
        except Refused as refused:
            await _send(writer, Event(error=refused.error))
            return
        if self._decoder.load + len(rows) > self._spec.max_rows + self._spec.max_waiting:
            text = "too many requests wait for this model already"
            await _send(writer, Event(error=EngineError(code="engine_overloaded", message=text)))
            return
        gone = asyncio.create_task(reader.read(1))
        answer = asyncio.create_task(self._answer(ask, rows, tokenizer, pieces, writer))
        try:
            self._decoder.add(rows)
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
        finally:
            self._decoder.cancel(rows)
            gone.cancel()
            answer.cancel()

    def _prepare(self, ask: Ask, tell: Any) -> tuple[list[Row], Any]:
        """The rows of a request, ready to decode; in a thread, as prompts and adapters may be long."""
        adapter = None
        folder = None
        if ask.adapter is not None:
            try:
                folder = self._sources.folder(ask.adapter)
            except FileNotFoundError:
                text = "the adapter's files are not there any more"
                raise Refused(text, "model", "model_not_found") from None
            adapter = AdapterRef(ask.adapter, folder)
            if not self._decoder.knows(ask.adapter):
                try:
                    adapter.read()
                except (OSError, ValueError) as error:
                    raise Refused(f"the adapter cannot be used: {error}", "model", "model_error") from error
        tokenizer = self._sources.tokenizer(folder)
        prompts = encode(ask, tokenizer)
        ends = self._facts.ends_of(tokenizer)
        sampling = Sampling(**ask.sampling.model_dump())
        self._check_bias(sampling)
        rows = []
        for number, tokens in enumerate(prompts):
            most = self._most(ask, len(tokens))
            for answer in range(ask.n):
                index = number * ask.n + answer
                stream = TextStream(tokenizer, tokens, ask.stop)
                rows.append(
                    Row(
                        list(tokens),
                        most,
                        Chooser(sampling, index),
                        stream,
                        lambda piece, index=index: tell(index, piece),  # type: ignore[misc]
                        eos=ends,
                        adapter=adapter,
                    )
                )
        return rows, tokenizer

    def _check_bias(self, sampling: Sampling) -> None:
        size = self._facts.vocabulary
        if any(not 0 <= token < size for token in sampling.logit_bias):
            raise Refused(f"logit_bias names a token that the model does not have; there are {size}", "logit_bias")
        if sampling.logprobs is not None and sampling.logprobs > size:
            raise Refused(f"the model has {size} tokens", "top_logprobs")

    def _most(self, ask: Ask, prompt: int) -> int:
        room = self._context - prompt
        wanted = ask.max_tokens if ask.max_tokens is not None else 1
        if room < wanted or room < 1:
            field = "messages" if ask.messages is not None else "prompt"
            asked = f" and max_tokens asks for {ask.max_tokens}" if ask.max_tokens is not None else ""
            raise Refused(
                f"This model's maximum context length is {self._context} tokens here. Your {field} "
                f"resulted in {prompt} tokens{asked}. Please reduce the length of the {field} or of the answer.",
                field,
                "context_length_exceeded",
            )
        return ask.max_tokens if ask.max_tokens is not None else room

    async def _answer(
        self, ask: Ask, rows: Sequence[Row], tokenizer: Any, pieces: Any, writer: asyncio.StreamWriter
    ) -> None:
        """Send what comes of the rows until all of them have ended."""
        unique = rows[:: ask.n]
        await _send(writer, Event(prompt_tokens=sum(row.prompt for row in unique)))
        if ask.echo:
            for index, row in enumerate(rows):
                text = tokenizer.decode(row.tokens[: row.prompt], skip_special_tokens=True)
                await _send(writer, Event(index=index, text=text))
        wants = ask.sampling.logprobs is not None
        left = len(rows)
        while left:
            index, piece = await pieces.get()
            if piece.error is not None:
                code, message = piece.error
                await _send(writer, Event(index=index, error=EngineError(code=code, message=message)))
                return
            logprobs = [told(said, tokenizer) for said in piece.said] if wants else []
            event = Event(index=index, text=piece.text, logprobs=logprobs, finish=piece.finish, tokens=piece.tokens)
            if piece.text or logprobs or piece.finish:
                await _send(writer, event)
            left -= piece.finish is not None
        await _send(writer, Event(done=True))


async def _send(writer: asyncio.StreamWriter, event: Event) -> None:
    # Only what is set: most lines are one token.
    writer.write(event.model_dump_json(exclude_defaults=True).encode() + b"\n")
    await writer.drain()
