"""Answers the same questions by a base model and by adapters of it, with transformers and peft alone.

    echo '["My parcel is late."]' | python examples/answers.py smollm2-135m sft=FOLDER dpo=FOLDER

prints `{"base": [...], "sft": [...], "dpo": [...]}`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from opensloth.models.local import local_model

MAX_NEW_TOKENS = 96


def main() -> None:
    """Reads questions as a JSON list from stdin and writes the answers of each model as JSON."""
    base_name, *adapters = sys.argv[1:]
    questions = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = local_model(base_name)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    for name, path in (adapter.split("=", 1) for adapter in adapters):
        if isinstance(model, PeftModel):
            model.load_adapter(path, adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, path, adapter_name=name).eval()

    answers = {"base": generate(model, tokenizer, questions, None)}
    for adapter in adapters:
        name = adapter.split("=", 1)[0]
        answers[name] = generate(model, tokenizer, questions, name)
    print(json.dumps(answers, ensure_ascii=False))


def generate(model: Any, tokenizer: Any, questions: list[str], adapter: str | None) -> list[str]:
    """The most likely answer to each question, by the base model if `adapter` is None."""
    without = model.disable_adapter() if adapter is None and isinstance(model, PeftModel) else contextlib.nullcontext()
    if adapter is not None:
        model.set_adapter(adapter)
    chats = [[{"role": "user", "content": question}] for question in questions]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    with without, torch.inference_mode():
        tokens = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    fresh = tokens[:, batch["input_ids"].shape[1] :]
    return [answer.strip() for answer in tokenizer.batch_decode(fresh, skip_special_tokens=True)]


if __name__ == "__main__":
    main()
