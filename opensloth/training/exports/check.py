"""Loads what was written, lets it speak, and compares it with the model that it was made from."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensloth.datasets.bounds import bounded
from opensloth.training.exports.failures import ExportFailed

PROMPTS = ("What is the capital of France?", "Write one sentence about rain.", "2 + 2 =")
NEW_TOKENS = 12
LARGEST_KL = {
    "merged_16bit": 0.02, "f32": 0.001, "f16": 0.005, "bf16": 0.02, "q8_0": 0.02,
    "q5_1": 0.5, "q5_0": 0.5, "q4_1": 2.0, "q4_0": 2.0,
}  # fmt: skip
"""The largest mean divergence, in nats a token, of a result from what it was made from.

Small models feel rounding most: SmolLM2-135M differs by 0.0035 as q8_0, 0.18 as q5_0 and 0.84 as q4_0. Uniform answers
would differ by about 10.
"""
_HIDDEN = 0.25
"""An adapter whose effect is less than this part of the rounding cannot be told from it."""


@dataclass(frozen=True)
class Spoken:
    """What a model makes of the prompts: log-probabilities [tokens, vocabulary] of each, and its greedy answers."""

    log_probabilities: list[Any]
    answers: list[list[int]]


def prompt_ids(tokenizer: Any) -> list[list[int]]:
    """The prompts as token ids, in the chat template where there is one."""
    found = []
    for prompt in PROMPTS:
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": prompt}]
            with bounded():
                text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            found.append(tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            found.append(tokenizer(prompt)["input_ids"])
    return found


def speak(model: Any, prompts: list[list[int]]) -> Spoken:
    """Runs the model over the prompts and lets it answer greedily; raises ExportFailed for numbers that are none."""
    import torch

    model.eval()
    log_probabilities, answers = [], []
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            logits = model(input_ids=ids).logits[0].to(torch.float32).cpu()
            if not torch.isfinite(logits).all():
                raise ExportFailed("the model computes NaN or infinity", code="export_differs")
            log_probabilities.append(torch.log_softmax(logits, dim=-1))
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
            )
            answers.append(made[0, len(prompt) :].tolist())
    return Spoken(log_probabilities, answers)


def divergence(reference: Spoken, other: Spoken) -> float:
    """The mean Kullback-Leibler divergence of the next token's distribution, in nats."""
    import torch

    total, count = 0.0, 0
    for p, q in zip(reference.log_probabilities, other.log_probabilities, strict=True):
        total += float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True))
        count += len(p)
    return total / count


def compare(reference: Spoken, result: Spoken, kind: str, bare: Spoken | None) -> dict[str, float]:
    """Measures of how near the result is; raises ExportFailed where it is not near enough.

    `bare` is the base without its adapter: a result that is nearer to that one was made without it.
    """
    import torch

    distance = divergence(reference, result)
    pairs = list(zip(reference.log_probabilities, result.log_probabilities, strict=True))
    same = torch.cat([p.argmax(-1) == q.argmax(-1) for p, q in pairs]).float().mean()
    answers = zip(reference.answers, result.answers, strict=True)
    agreed = [sum(1 for a, b in zip(x, y, strict=False) if a == b) / max(1, len(x)) for x, y in answers]
    limit = LARGEST_KL[kind]
    if not distance <= limit:
        raise ExportFailed(
            f"the result is not the model that it was made from: it differs by {distance:.3g} nats a token, "
            f"where {limit} is the most",
            code="export_differs",
        )
    if bare is not None and _is_nearer_to(bare, reference, result, distance):
        raise ExportFailed("the adapter has no effect in the result", code="export_differs")
    return {
        "check/kl": distance,
        "check/top1_agreement": float(same),
        "check/greedy_agreement": sum(agreed) / len(agreed),
    }


def _is_nearer_to(bare: Spoken, reference: Spoken, result: Spoken, distance: float) -> bool:
    """Whether the result is nearer to the bare base than to what it was made from, beyond what rounding explains."""
    from_bare = divergence(bare, result)
    return from_bare < distance and divergence(reference, bare) > _HIDDEN * from_bare


def load(folder: Path, device: str, *, gguf_file: str | None = None, config: Any = None) -> Any:
    """A model for the check; float32 on a CPU where half the memory holds it, else what it is stored in."""
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": _dtype(folder, device)}
    if gguf_file is not None:
        options |= {"gguf_file": gguf_file, "config": config}
    else:
        options["use_safetensors"] = True
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)
    return model.to(torch.device(device))


def with_adapter(model: Any, adapter: Path) -> Any:
    """The base with its adapter, as a user would load it."""
    import peft

    return peft.PeftModel.from_pretrained(model, str(adapter))


def speak_and_free(make: Callable[[], Any], prompts: list[list[int]]) -> Spoken:
    """Loads a model, lets it speak and gives its memory back before the next one comes."""
    import torch

    model = make()
    try:
        return speak(model, prompts)
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _dtype(folder: Path, device: str) -> Any:
    import torch

    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    stored = sum(file.stat().st_size for file in [*folder.glob("*.safetensors"), *folder.glob("*.gguf")])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return torch.float32 if 4 * stored < memory else torch.bfloat16
