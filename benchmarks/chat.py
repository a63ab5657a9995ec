"""Chat with four adapters of one base at once, against transformers' own batched `generate` for each adapter in turn.

`-- MODEL [TOKENS] [ROUNDS]` names a folder with SmolLM2-135M-Instruct (fetched into a temporary one without it), the
tokens of each answer and how often both sides take their turn. The engine is the process that the service starts,
asked over its socket by as many clients at once; `generate` runs in this process with PEFT, the prompts of each adapter
as one left-padded batch, one adapter after the other. Both answer the same prompts greedily with as many threads.

Medians of the rounds are kept, of wall time and of CPU time: on a machine that others use the latter is what can be
compared. `joining` is a request that comes while 31 others decode: how many steps they made before it spoke, and how
long it took in their own median steps. `switch_ms` is what another adapter than the one before costs a request.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.support import ROOT, save
from opensloth.chat.engine.spec import TOKEN, ChatRun
from opensloth.chat.wire import LINE_BYTES, Ask, Event, SamplingAsk
from opensloth.storage import Storage
from opensloth.training.secret_values import secrets_pipe

ADAPTERS = 4
CONCURRENT = (1, 8, 32)
TEXT = "the city of Paris is known for art food rivers music history and people who walk along its streets"
WORDS = TEXT.split(" ")
SECRET = "benchmark"


def main(options: list[str]) -> None:
    tokens, rounds = int(options[1]) if len(options) > 1 else 48, int(options[2]) if len(options) > 2 else 3
    with tempfile.TemporaryDirectory(prefix="opensloth-chat-") as name:
        folder = Path(name)
        model = Path(options[0]) if options else _fetch(folder)
        storage = Storage(str(folder / "storage"))
        keys = _adapters(model, folder, storage)
        load_before = os.getloadavg()[0]
        engine = Engine(model, folder, storage)
        theirs = Generate(model, [storage.local_path(key) for key in keys])
        try:
            found = _compare(engine, theirs, keys, tokens, rounds)
            found["joining"] = engine.joining(keys, tokens)
            found["switch_ms"] = engine.switching(keys)
        finally:
            engine.close()
    found |= {"tokens_each": tokens, "rounds": rounds, "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    save("chat", found | {"load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)]})


def _compare(engine: Engine, theirs: Generate, keys: list[str], tokens: int, rounds: int) -> dict[str, Any]:
    turns: dict[str, dict[int, list[dict[str, float]]]] = {"ours": {}, "generate": {}}
    warm = _prompts(ADAPTERS)
    engine.answer(warm, keys, 4)
    theirs.answer(warm, 4)
    for _ in range(rounds):
        for count in CONCURRENT:
            prompts = _prompts(count)
            turns["ours"].setdefault(count, []).append(engine.answer(prompts, keys, tokens))
            turns["generate"].setdefault(count, []).append(theirs.answer(prompts, tokens))
    result: dict[str, Any] = {}
    for side, by_count in turns.items():
        result[side] = {
            str(count): {name: round(statistics.median(turn[name] for turn in some), 3) for name in some[0]}
            for count, some in by_count.items()
        }
    for name in ("tokens_per_s", "tokens_per_cpu_s"):
        result[f"{name}_ratio"] = {
            str(count): round(
                statistics.median(
                    ours[name] / other[name]
                    for ours, other in zip(turns["ours"][count], turns["generate"][count], strict=True)
                ),
                2,
            )
            for count in CONCURRENT
        }
    return result


def _prompts(count: int) -> list[str]:
    source = random.Random(count)
    return [" ".join(source.choices(WORDS, k=source.randint(10, 40))) + "?" for _ in range(count)]


def _fetch(folder: Path) -> Path:
    from opensloth.models.acquire import acquire

    storage = Storage(str(folder / "base"))
    acquire("smollm2-135m", "model", storage, folder / "scratch")
    found = storage.local_path("model")
    assert found is not None
    return found


def _adapters(model: Path, folder: Path, storage: Storage) -> list[str]:
    """Random adapters of rank 16 on all linear layers."""
    from tests.support.tiny_adapters import make_adapter

    keys = [f"jobs/{number}/artifacts" for number in range(ADAPTERS)]
    for number, key in enumerate(keys):
        storage.put_tree(make_adapter(model, folder / f"a{number}", number, r=16, lora_alpha=1), key, move=True)
    return keys


def _turn(firsts: list[float], tokens: int, wall_s: float, cpu_s: float) -> dict[str, float]:
    return {
        "first_token_s": statistics.median(firsts),
        "slowest_first_token_s": max(firsts),
        "tokens_per_s": tokens / wall_s,
        "tokens_per_cpu_s": tokens / cpu_s,
    }


class Engine:
    """The engine's process, and clients of it."""

    def __init__(self, model: Path, folder: Path, storage: Storage) -> None:
        run_dir = folder / "run"
        run_dir.mkdir()
        spec = ChatRun(
            job_id="bench",
            attempt=1,
            device="cpu",
            model=str(model),
            base_name="smollm2-135m",
            run_dir=str(run_dir),
            storage_url=storage.url,
            address="127.0.0.1",
            context_tokens=8192,
            kv_tokens=16384,
            max_rows=32,
            max_waiting=64,
            idle_s=3600,
            grace_s=1,
        )
        (run_dir / "run.json").write_text(spec.model_dump_json())
        told = secrets_pipe({TOKEN: SECRET})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "opensloth.chat.engine.main", str(run_dir)],
            cwd=ROOT,
            env={**os.environ, "OPENSLOTH_SECRETS_FD": str(told), "TOKENIZERS_PARALLELISM": "false"},
            pass_fds=[told],
            stdout=subprocess.DEVNULL,
        )
        os.close(told)
        self._port = self._wait(run_dir / "events.jsonl")

    def _wait(self, events: Path) -> int:
        while self._process.poll() is None:
            for line in events.read_text().splitlines() if events.exists() else ():
                record = json.loads(line)
                if record["type"] == "listening":
                    return int(record["data"]["port"])
            time.sleep(0.1)
        raise RuntimeError("the engine ended")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _cpu_s(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def answer(self, prompts: list[str], keys: list[str], tokens: int) -> dict[str, float]:
        cpu_s, began = self._cpu_s(), time.monotonic()
        told = asyncio.run(self._all(prompts, keys, tokens))
        wall_s, cpu_s = time.monotonic() - began, self._cpu_s() - cpu_s
        return _turn([times[0] for times in told], tokens * len(prompts), wall_s, cpu_s)

    async def _all(self, prompts: list[str], keys: list[str], tokens: int) -> list[list[float]]:
        asks = (self.one(prompt, keys[number % ADAPTERS], tokens) for number, prompt in enumerate(prompts))
        return list(await asyncio.gather(*asks))

    async def one(self, prompt: str, key: str | None, tokens: int, seen: list[float] | None = None) -> list[float]:
        """When each token came, in seconds after the request."""
        # The answer's end is forbidden, so that all of them are as long; log probabilities make a line of each token.
        sampling = SamplingAsk(temperature=0, logit_bias={0: -100, 1: -100, 2: -100}, logprobs=0)
        messages = [{"role": "user", "content": prompt}]
        ask = Ask(messages=messages, adapter=key, max_tokens=tokens, sampling=sampling)
        began, times = time.monotonic(), [] if seen is None else seen
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LINE_BYTES)
        writer.write(json.dumps({"token": SECRET, "ask": ask.model_dump(exclude_defaults=True)}).encode() + b"\n")
        while line := await reader.readline():
            event = Event.model_validate_json(line)
            if event.error is not None:
                raise RuntimeError(event.error.message)
            times += [time.monotonic() - began] * len(event.logprobs)
        writer.close()
        if len(times) != tokens:
            raise RuntimeError(f"{len(times)} tokens of {tokens}")
        return times

    def joining(self, keys: list[str], tokens: int) -> dict[str, float]:
        """A request that comes while 31 others are in the middle of their answers."""

        async def run() -> dict[str, float]:
            prompts = _prompts(32)
            seen: list[list[float]] = [[] for _ in prompts[1:]]
            others = [
                asyncio.create_task(self.one(prompt, keys[number % ADAPTERS], tokens, seen[number]))
                for number, prompt in enumerate(prompts[1:])
            ]
            while min(len(times) for times in seen) < tokens // 3:
                await asyncio.sleep(0.005)
            before = [len(times) for times in seen]
            mine: list[float] = []
            new = asyncio.create_task(self.one("And you?", keys[1], 4, mine))
            while not mine:
                await asyncio.sleep(0.002)
            after = [len(times) for times in seen]
            await new
            steps = statistics.median(b - a for a, b in zip(before, after, strict=True))
            gaps = [b - a for times in await asyncio.gather(*others) for a, b in pairwise(times)]
            step_s = statistics.median(gaps)
            return {
                "others_steps_meanwhile": steps,
                "first_token_s": round(mine[0], 3),
                "median_step_s": round(step_s, 3),
                "first_token_in_steps": round(mine[0] / step_s, 2),
            }

        return asyncio.run(run())

    def switching(self, keys: list[str], times: int = 15) -> dict[str, float]:
        """The first token with the adapter of the request before, and with another one."""

        async def first(key: str) -> float:
            return (await self.one("Hi", key, 1))[0]

        async def run() -> dict[str, float]:
            same, other = [], []
            await first(keys[0])
            for _ in range(times):
                same.append(await first(keys[0]))
                other.append(await first(keys[1]))
                await first(keys[0])
            between = [b - a for a, b in zip(same, other, strict=True)]
            return {
                "same_first_token_ms": round(1000 * statistics.median(same), 2),
                "other_first_token_ms": round(1000 * statistics.median(other), 2),
                "median_difference_ms": round(1000 * statistics.median(between), 2),
            }

        return asyncio.run(run())


class Generate:
    """transformers' `generate` with PEFT."""

    def __init__(self, model: Path, folders: list[Path | None]) -> None:
        import peft
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._model: Any = peft.PeftModel.from_pretrained(base, folders[0], adapter_name="0")
        for number, folder in enumerate(folders[1:], 1):
            self._model.load_adapter(folder, adapter_name=str(number))
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")

    def answer(self, prompts: list[str], tokens: int) -> dict[str, float]:
        firsts: list[float] = []
        began, cpu_s = time.monotonic(), time.process_time()
        for number in range(min(ADAPTERS, len(prompts))):
            own = prompts[number::ADAPTERS]
            self._model.set_adapter(str(number))
            firsts += [self._batch(own, tokens) - began] * len(own)
        return _turn(firsts, tokens * len(prompts), time.monotonic() - began, time.process_time() - cpu_s)

    def _batch(self, prompts: list[str], tokens: int) -> float:
        """When the first tokens were there."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        moments: list[float] = []

        class Watch(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                moments.append(time.monotonic())
                return torch.zeros(input_ids.shape[0], dtype=torch.bool)

        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        inputs = self._tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                stopping_criteria=StoppingCriteriaList([Watch()]),
            )
        return moments[0]
