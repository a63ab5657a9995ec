"""vLLM in the decoder's place, where it is installed: the same rows, the same pieces."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import logging
import math
from collections.abc import Sequence
from typing import Any

from opensloth.chat.engine.answers import Piece, Row
from opensloth.chat.engine.loading import Facts
from opensloth.chat.engine.sampling import Chosen
from opensloth.chat.engine.spec import ChatRun

log = logging.getLogger(__name__)

MOST_ADAPTERS, LARGEST_RANK = 8, 128
"""Adapters that one step may use, and their largest rank: vLLM keeps room for both."""
_SHARE = 0.9
"""Of a GPU that the engine has for itself."""


def is_usable(spec: ChatRun) -> bool:
    """Whether vLLM is installed and this engine is one for it: on a GPU, without an adapter that must be merged."""
    return spec.device == "cuda" and spec.adapter is None and importlib.util.find_spec("vllm") is not None


def version() -> str:
    """Of vLLM."""
    return importlib.metadata.version("vllm")


class VllmSpeaker:
    """Rows by vLLM's asynchronous engine; all calls come from the thread of the event loop."""

    def __init__(self, spec: ChatRun, facts: Facts) -> None:
        from vllm import AsyncEngineArgs, AsyncLLMEngine

        self._llm: Any = AsyncLLMEngine.from_engine_args(
            AsyncEngineArgs(
                model=spec.model,
                max_model_len=facts.context,
                max_num_seqs=spec.max_rows,
                gpu_memory_utilization=_share_of_device(spec),
                enable_lora=True,
                max_loras=MOST_ADAPTERS,
                max_lora_rank=LARGEST_RANK,
                max_logprobs=20,
                # The worker's SIGTERM reaches vLLM's own process too, which would give up all answers at once.
                shutdown_timeout=math.ceil(spec.grace_s) + 1,
                trust_remote_code=False,
                disable_log_stats=True,
            )
        )
        self._tasks: dict[Row, asyncio.Task[None]] = {}
        self._numbers: dict[str, int] = {}
        """Of adapters: vLLM tells them apart by a number."""
        self._loaded: set[str] = set()
        """Adapters that vLLM has taken once."""
        self._asked = 0
        self.steps = 0
        """Pieces so far."""
        self.failure: BaseException | None = None

    async def begin(self) -> None:
        """It has tried the model while it was made."""

    @property
    def load(self) -> int:
        """Rows that are worked on or wait."""
        return len(self._tasks)

    def knows(self, key: str) -> bool:
        """vLLM reads adapters itself."""
        return True

    def add(self, rows: Sequence[Row]) -> None:
        """Take new rows."""
        for row in rows:
            task = asyncio.get_running_loop().create_task(self._speak(row))
            self._tasks[row] = task
            task.add_done_callback(lambda _, row=row: self._tasks.pop(row, None))  # type: ignore[misc]

    def cancel(self, rows: Sequence[Row]) -> None:
        """Nobody wants these any more; vLLM takes a request back whose reader is gone."""
        for row in rows:
            if row in self._tasks:
                self._tasks[row].cancel()

    def fail(self, code: str, message: str) -> None:
        """Tell every row that there will be no more."""
        for row, task in list(self._tasks.items()):
            task.cancel()
            row.tell(Piece(error=(code, message)))

    async def _speak(self, row: Row) -> None:
        try:
            await self._read(row, await self._adapter(row))
        except Exception as error:
            if self._llm.errored:
                log.exception("vLLM failed")
                self.failure = error
                row.tell(Piece(error=("engine_lost", "the engine failed")))
                return
            log.warning("vLLM refused a request", exc_info=True)
            row.tell(Piece(error=("model_error", f"vLLM does not answer this: {error.__cause__ or error}")))

    async def _read(self, row: Row, adapter: Any) -> None:
        self._asked += 1
        answer = self._llm.generate(
            {"prompt_token_ids": row.tokens[: row.prompt]},
            self._params(row),
            request_id=f"row-{self._asked}",
            lora_request=adapter,
        )
        try:
            async for output in answer:
                self.steps += 1
                (part,) = output.outputs
                for at, token in enumerate(part.token_ids):
                    told = part.logprobs[at] if part.logprobs else None
                    piece = row.say(_chosen(int(token), told, row))
                    if piece is not None:
                        row.tell(piece)
                    if piece is not None and piece.finish is not None:
                        return
            row.tell(row.end("length"))
        finally:
            await answer.aclose()

    def _params(self, row: Row) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = row.chooser.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            seed=row.chooser.seed,
            max_tokens=row.most,
            logprobs=sampling.logprobs,
            # What ends an answer is decided by the row, as for the decoder; these only end it early.
            stop_token_ids=sorted(row.eos),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def _adapter(self, row: Row) -> Any:
        """vLLM's name of the row's adapter, loaded; raises what vLLM says of one that it cannot take."""
        if row.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        key = row.adapter.key
        request = LoRARequest(key, self._numbers.setdefault(key, len(self._numbers) + 1), str(row.adapter.folder))
        if key not in self._loaded:
            # Loaded with its first request, one of too large a rank would end the engine for everybody.
            await self._llm.add_lora(request)
            self._loaded.add(key)
        return request


def _chosen(token: int, told: Any, row: Row) -> Chosen:
    """vLLM tells the token's own log probability among those of the likeliest."""
    most = row.chooser.sampling.logprobs
    if told is None or most is None:
        return Chosen(token)
    ordered = sorted(((int(number), float(one.logprob)) for number, one in told.items()), key=lambda pair: -pair[1])
    return Chosen(token, float(told[token].logprob), tuple(ordered[:most]))


def _share_of_device(spec: ChatRun) -> float:
    if spec.memory_bytes is None:
        return _SHARE
    import torch

    return min(_SHARE, spec.memory_bytes / torch.cuda.get_device_properties(0).total_memory)
