"""One process that trains cells, one after the other: `python -m benchmarks.engine_cells FILE`.

FILE is JSON: `output` (lines of results are added there), `cells`, and for several ranks `rendezvous`. A side is ours
(`opensloth`), ours without the faster parts (`plain`), or Unsloth's documented script (`bare`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WARM_STEPS = 3
WORDS = "the quick brown fox jumps over the lazy dog and then it sleeps until morning comes "


@dataclass(frozen=True)
class Cell:
    """One training; `tokens` is the longest row, `rows` are those of one pass (packed rows where they are packed)."""

    name: str
    model: str
    side: str = "opensloth"
    engine: str = "transformers"
    method: str = "sft"
    rows: int = 2
    accumulation: int = 1
    tokens: int = 2048
    bits: int = 16
    full: bool = False
    shard: bool = False
    """Each rank holds a part of the weights, all of which are trained."""
    checkpointing: bool | str | None = None
    packing: bool = True
    lengths: str = "varied"
    steps: int = 12
    optim: str = "adamw_8bit"
    reduce: str = "flat"
    after: str | None = None
    """A file that must be there before the cell begins."""
    arguments: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """The command."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    cells = [Cell(**cell) for cell in asked["cells"]]
    if any(cell.side == "bare" or cell.engine == "unsloth" for cell in cells):
        import unsloth  # noqa: F401
    import torch
    import trl  # noqa: F401

    from opensloth.init_modules import init_process_group, rank_from_environment

    rank = rank_from_environment()
    init_process_group(
        rank, Path(asked.get("rendezvous", "rendezvous")), "cuda" if torch.cuda.is_available() else "cpu"
    )
    for cell in cells:
        while cell.after is not None and not Path(cell.after).exists():
            time.sleep(0.05)
        began = time.monotonic()
        try:
            result = measure(cell, rank.count)
        except Exception as error:  # the other cells are still worth their time
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}"[:600]}
        result |= {"wall_s": round(time.monotonic() - began, 1), "ranks": rank.count}
        gc.collect()
        torch.cuda.empty_cache()
        if rank.is_main:
            line = json.dumps({**asdict(cell), **result})
            with Path(asked["output"]).open("a") as out:
                out.write(line + "\n")
            print(line[:1500], flush=True)
    if rank.is_main:
        Path(asked["output"] + "." + cells[-1].name.replace(" ", "-").replace("/", "-") + ".done").touch()
    sys.stdout.flush()
    os._exit(0)


def measure(cell: Cell, world: int) -> dict[str, Any]:
    """Tokens/s over the steps after the warm ones, peak memory, and loss and gradient norm of each step."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer = bare_trainer(cell) if cell.side == "bare" else our_trainer(cell, world)
    timed = timer_of(trainer)
    with reduced_by(trainer, cell):
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps = timed.steps[WARM_STEPS:] or timed.steps
    seconds, tokens = sum(step[0] for step in steps), sum(step[1] for step in steps)
    result = {
        "tokens_per_second": round(world * tokens / seconds, 1),
        "step_s": round(sorted(step[0] for step in steps)[len(steps) // 2], 4),
        "first_step_s": round(timed.steps[0][0], 2),
        "tokens_a_step": round(world * tokens / len(steps), 1),
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
        "loss": [round(entry["loss"], 5) for entry in logs],
        "grad_norm": [round(float(entry.get("grad_norm", 0)), 5) for entry in logs],
        "tokens": [step[1] for step in timed.steps],
    }
    del trainer
    return result


class Timed:
    """Seconds and tokens of each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, int]] = []
        self.counted: list[Any] = []
        self.began = 0.0


def timer_of(trainer: Any) -> Timed:
    """Watches a trainer's steps; the GPU is waited for at both ends of one."""
    import torch
    from transformers import TrainerCallback

    timed = Timed()
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    step = trainer.training_step

    def training_step(model: Any, inputs: Any, *given: Any, **options: Any) -> Any:
        for batch in inputs if isinstance(inputs, list) else [inputs]:
            timed.counted.append(tokens_in(batch))
        return step(model, inputs, *given, **options)

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize()
            timed.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            timed.steps.append((time.perf_counter() - timed.began, sum(int(count) for count in timed.counted)))
            timed.counted = []

    trainer.training_step = training_step
    trainer.add_callback(Watch())
    return timed


def tokens_in(batch: Any) -> Any:
    """Tokens of a batch, padding left out."""
    import torch

    if not isinstance(batch, dict) and not hasattr(batch, "keys"):
        return 0
    if "num_tokens" in batch:
        return batch["num_tokens"].sum()
    if batch.get("attention_mask") is not None:
        return batch["attention_mask"].sum()
    if "input_ids" in batch:
        return batch["input_ids"].numel()
    masks = [value for name, value in batch.items() if name.endswith("mask") and torch.is_tensor(value)]
    return sum(mask.sum() for mask in masks)


@contextlib.contextmanager
def reduced_by(trainer: Any, cell: Cell) -> Any:
    """With `ddp`, gradients are reduced by DDP while the backward pass runs, and not by us."""
    import opensloth.training.rank_trainer as module

    if cell.reduce != "ddp":
        yield
        return
    ours = module.average_gradients
    module.average_gradients = lambda parameters: None  # type: ignore[assignment]
    trainer.accelerator.no_sync = lambda model: contextlib.nullcontext()
    try:
        yield
    finally:
        module.average_gradients = ours
        del trainer.accelerator.no_sync


def our_trainer(cell: Cell, world: int) -> Any:
    """As a script builds it."""
    import opensloth.training.speed.apply as apply
    from opensloth.init_modules import init_model_and_tokenizer
    from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
    from opensloth.trainer_factory import create_trainer_by_type

    own: dict[str, Any] = {} if cell.method in ("sft", "grpo") else {f"{cell.method}_args": {"max_length": cell.tokens}}
    if cell.method == "grpo":
        brief = {"name": "length", "params": {"unit": "characters", "target": 10, "tolerance": 30}}
        grpo = {"max_completion_length": 64, "max_prompt_length": 128, "beta": 0.04, "reward_functions": [brief]}
        own = {"grpo_args": grpo}
    fast: dict[str, Any] = {"model_name": cell.model, "max_seq_length": cell.tokens, "load_in_4bit": cell.bits == 4}
    fast |= {"full_finetuning": cell.full}
    if cell.checkpointing is not None:
        fast["use_gradient_checkpointing"] = cell.checkpointing
    config = OpenSlothConfig(
        training_type=cell.method,
        engine=cell.engine,  # type: ignore[arg-type]
        fast_model_args=fast,  # type: ignore[arg-type]
        lora_args=None if cell.full else {"r": 16},  # type: ignore[arg-type]
        sequence_packing=cell.packing and cell.method == "sft",
        filter_overlength_samples=False,
        shard_weights=cell.shard,
        **({"loss_on": "all"} if cell.method == "sft" else {}),
        **own,
    )
    arguments = TrainingArguments(
        output_dir="/tmp/opensloth-bench-out",
        per_device_train_batch_size=cell.rows,
        gradient_accumulation_steps=cell.accumulation,
        max_steps=cell.steps,
        warmup_steps=0,
        logging_steps=1,
        optim=cell.optim,
        save_strategy="no",
        **cell.arguments,
    )
    speed_up = apply.speed_up
    if cell.side == "plain":
        apply.speed_up = lambda model: {}
    try:
        model, tokenizer = init_model_and_tokenizer(config, arguments)
        trainer = create_trainer_by_type(model, tokenizer, rows_of(cell, world), config, arguments)
    finally:
        apply.speed_up = speed_up
    if cell.method == "grpo":
        trainer._generate_single_turn = scripted_answers
    return trainer


def bare_trainer(cell: Cell) -> Any:
    """Unsloth's documented script: its loader, its adapter, its checkpointing, TRL's trainer."""
    from unsloth import FastLanguageModel, PatchDPOTrainer

    if cell.method == "dpo":
        PatchDPOTrainer()
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=cell.model, max_seq_length=cell.tokens, dtype=None, load_in_4bit=cell.bits == 4
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    checkpointing = "unsloth" if cell.checkpointing is None else cell.checkpointing
    model = FastLanguageModel.get_peft_model(
        model, r=16, target_modules=targets, lora_alpha=16, lora_dropout=0, bias="none",
        use_gradient_checkpointing=checkpointing, random_state=3407,
    )  # fmt: skip
    common = {
        "per_device_train_batch_size": cell.rows, "gradient_accumulation_steps": cell.accumulation, "warmup_steps": 0,
        "max_steps": cell.steps, "logging_steps": 1, "optim": "adamw_8bit", "weight_decay": 0.01, "seed": 42,
        "lr_scheduler_type": "linear", "output_dir": "/tmp/opensloth-bench-out", "report_to": "none", "bf16": True,
        "save_strategy": "no",
    }  # fmt: skip
    rows = rows_of(cell, 1)
    if cell.method == "dpo":
        texts = [{name: said[0]["content"] for name, said in row.items()} for row in rows]
        args = DPOConfig(**common, learning_rate=5e-6, beta=0.1, max_length=cell.tokens)
        return DPOTrainer(
            model=model, ref_model=None, args=args, train_dataset=Dataset.from_list(texts), processing_class=tokenizer
        )
    texts = [{"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)} for row in rows]
    args = SFTConfig(
        **common, learning_rate=2e-4, dataset_text_field="text", max_length=cell.tokens, packing=cell.packing
    )
    return SFTTrainer(model=model, processing_class=tokenizer, train_dataset=Dataset.from_list(texts), args=args)


def rows_of(cell: Cell, world: int) -> list[dict[str, Any]]:
    """As many rows as the steps need; a token is a byte. Lengths are as skewed as those of chats, or all the limit."""
    draw = random.Random(0)
    batch = cell.rows * cell.accumulation * world
    needed = batch * cell.steps
    if cell.packing and cell.method == "sft" and cell.lengths == "varied":
        needed = int(needed * cell.tokens / (0.33 * cell.tokens) * 1.15)
    return [row_of(cell, draw, number) for number in range(needed + batch)]


def row_of(cell: Cell, draw: random.Random, number: int) -> dict[str, Any]:
    """One row of the method's form."""

    def said(role: str, size: int) -> list[dict[str, str]]:
        start = draw.randrange(len(WORDS))
        return [{"role": role, "content": (WORDS * (size // len(WORDS) + 2))[start : start + max(8, size)]}]

    def length(most: float) -> int:
        return int(most if cell.lengths == "full" else min(most, max(32.0, draw.lognormvariate(-1.4, 0.8) * most)))

    longest = cell.tokens - 100
    if cell.method == "sft":
        size = length(longest)
        return {"messages": [*said("user", size // 4), *said("assistant", size - size // 4)]}
    if cell.method == "grpo":
        return {"prompt": [{"role": "user", "content": f"Say {number} in {draw.randrange(9)} words"}]}
    prompt = said("user", length(longest) // 4)
    if cell.method == "kto":
        return {"prompt": prompt, "completion": said("assistant", length(longest * 0.7)), "label": number % 3 != 0}
    chosen, rejected = (said("assistant", length(longest * 0.7)) for _ in range(2))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def scripted_answers(prompt_ids: Any, *_: Any, **__: Any) -> Any:
    """In place of sampling, answers that depend on the prompt alone: then ranks can be compared."""
    seen: dict[tuple[int, ...], int] = {}
    answers = []
    for prompt in prompt_ids:
        key = tuple(int(token) for token in prompt)
        seen[key] = seen.get(key, 0) + 1
        draw = random.Random(f"{key}{seen[key]}")
        words = draw.randrange(4, 40)
        answers.append([draw.choice([32, 64, 65, 66, 67]) if n % 3 == 0 else 70 for n in range(words)])
    return answers, None


if __name__ == "__main__":
    main()
