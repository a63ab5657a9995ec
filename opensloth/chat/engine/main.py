"""One chat engine: `python -m opensloth.chat.engine.main RUN_DIR`.

RUN_DIR holds `run.json` (see spec.py). Records, heartbeat and exit codes are those of a trainer. It says where it
listens by a record of type `listening`, ends by itself when it was idle for long, and on SIGTERM once the answers that
are under way are complete or their grace is over.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from opensloth.training.program import EXIT_DONE, main, quiet_libraries
from opensloth.training.stop import EXIT_STOPPED, Stop

if TYPE_CHECKING:
    from opensloth.chat.engine.decoder import Decoder
    from opensloth.chat.engine.loading import Facts
    from opensloth.chat.engine.spec import ChatRun
    from opensloth.chat.engine.vllm_speaker import VllmSpeaker
    from opensloth.training.records import Records
    from opensloth.training.secret_values import SecretValues

_LOOK_S = 0.25


def serve(run_dir: Path, records: Records, stop: Stop, secrets: SecretValues) -> int:
    """Serves what `run_dir` specifies; returns the exit code."""
    from opensloth.chat.engine.spec import TOKEN, read_chat
    from opensloth.hub import prepare_hub

    spec = read_chat(run_dir)
    secret = secrets.get(TOKEN)
    if not secret:
        raise ValueError("the engine was told no secret")
    quiet_libraries()
    prepare_hub()
    records.phase("loading_model", f"loading {spec.base_name}")
    return asyncio.run(_live(spec, records, stop, secret, secrets.get("model")))


async def _live(spec: ChatRun, records: Records, stop: Stop, secret: str, hub_token: str | None) -> int:
    """Until it is idle for long, has to stop, or what speaks fails."""
    from opensloth.chat.engine.loading import Sources
    from opensloth.chat.engine.server import ChatServer
    from opensloth.training.pulse import STEPS, Pulse

    decoder, facts = _speaker(spec, records, hub_token)
    await decoder.begin()
    server = ChatServer(spec, decoder, Sources(spec, hub_token), facts, secret)
    stop.leave_at_once = False
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: setattr(stop, "requested", True))
    sockets = await server.listen()
    port = sockets.sockets[0].getsockname()[1]
    records.write("started", "the model answers", step=0, max_steps=None, resumed_step=0)
    records.phase("serving", f"serving {spec.base_name}")
    told = {"port": port, "fingerprint": facts.fingerprint, "context": facts.context}
    records.write("listening", f"listening on port {port}", **told)
    pulse, seen, idle_since = Pulse(Path(spec.run_dir)), -1, time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_S)
        if decoder.failure is not None:
            await asyncio.sleep(_LOOK_S)  # clients are told
            raise decoder.failure
        if server.busy:
            idle_since = time.monotonic()
        if decoder.steps != seen or not decoder.load:
            # An engine without work is well; one whose steps do not end is not.
            seen = decoder.steps
            pulse.beat(STEPS, _LOOK_S)
        if stop.requested:
            await server.drain(spec.grace_s)
            records.write("stopped", f"stopped after {server.requests} requests", step=0, complete=True)
            return EXIT_STOPPED
        if time.monotonic() - idle_since > spec.idle_s and not server.busy:
            text = f"nobody asked it anything for {spec.idle_s:.0f} s; it answered {server.requests} requests"
            records.write("result", text, artifacts=[], is_model=False, metrics={})
            return EXIT_DONE


def _speaker(spec: ChatRun, records: Records, hub_token: str | None) -> tuple[Decoder | VllmSpeaker, Facts]:
    """vLLM where it is installed, runs, and can switch to the model's adapters; else our own decoder."""
    from opensloth.chat.engine import vllm_speaker
    from opensloth.chat.engine.loading import read_facts

    if vllm_speaker.is_usable(spec):
        try:
            facts = read_facts(spec, hub_token, f"vllm {vllm_speaker.version()}")
            return vllm_speaker.VllmSpeaker(spec, facts), facts
        except Exception as error:
            logging.getLogger(__name__).exception("vLLM does not run this model")
            text = f"vLLM does not run this model ({type(error).__name__}); transformers does"
            records.log(text, level="warning")
    import torch
    import transformers

    from opensloth.chat.engine.decoder import Decoder
    from opensloth.chat.engine.loading import load_model
    from opensloth.training.memory import apply_cap

    apply_cap(spec.memory_bytes, spec.device)
    engine = f"transformers {transformers.__version__} torch {torch.__version__}"
    model = load_model(spec, hub_token)
    return Decoder(model, kv_tokens=spec.kv_tokens, max_rows=spec.max_rows), read_facts(spec, hub_token, engine)


if __name__ == "__main__":
    main(serve, "engine", "the model was loaded")
