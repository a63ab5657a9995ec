"""What a resolved job asks of its devices, in the numbers that `opensloth.devices.estimate` works with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from opensloth.devices.estimate import Checkpointing, Estimate, Training, estimate, without_data
from opensloth.devices.model_shape import ModelShape
from opensloth.devices.shapes import shape_key
from opensloth.jobs.row_lengths import RowLengths
from opensloth.opensloth_config import GRPOArgs
from opensloth.resolve import Resolved

KNOWN_METHODS = frozenset({"sft", "dpo", "kto", "orpo", "grpo"})
"""The methods whose passes over the model are known; a plugin's are not."""
PRECISIONS = {4: "4bit", 8: "8bit", 16: "16bit", 32: "32bit"}


_CERTAIN = 0.8
"""The part of what comes and goes that is certain: no job is refused for an estimate that is a little high."""


@dataclass(frozen=True)
class Requirement:
    """A job in numbers: `most` with rows as long as they may be, `least` with what is certain."""

    most: Training
    least: Training
    rows_decide: bool
    """The rows' own lengths bear on memory; packed sequences are full whatever they hold."""


def requirement(
    resolved: Resolved, rows: RowLengths | None, *, devices: int, from_adapter: bool, vocabulary: int
) -> Requirement:
    """The numbers of a resolved job; `rows` is None as long as its dataset is still to come."""
    config, args = resolved.opensloth_config, resolved.training_args
    fast, lora = config.fast_model_args, config.lora_args
    method = config.training_type
    grpo = config.grpo_args if method == "grpo" else None
    size = args.per_device_train_batch_size
    if args.eval_strategy not in (None, "no"):
        size = max(size, math.ceil((args.per_device_eval_batch_size or size) / 2))  # without gradients
    most = Training(
        cuda=resolved.device == "cuda",
        unsloth=resolved.engine == "unsloth",
        method=method,
        full=fast.full_finetuning,
        bits=bits_of(resolved),
        rows=size,
        tokens=_limit(resolved),
        checkpointing=_checkpointing(resolved),
        optimizer=str(args.optim),
        lora_r=lora.r if lora else 0,
        lora_targets=_targets(lora.target_modules) if lora else None,
        lora_dropout=bool(lora and lora.lora_dropout),
        reference_adapter=from_adapter and not fast.full_finetuning and _compares(resolved),
        reference_model=fast.full_finetuning and _compares(resolved),
        prompt_tokens=_limit(resolved) - grpo.max_completion_length if grpo else 0,
        sampled_rows=size * args.gradient_accumulation_steps if grpo else 0,
        devices=devices,
        sharded=bool(config.shard_weights),
    )
    if grpo is not None:
        return _with_prompts(most, grpo, rows, vocabulary)
    packed = config.sequence_packing and method == "sft"
    if packed and rows is not None and rows.fill(most.tokens * most.rows):
        return Requirement(most, most, rows_decide=False)
    if rows is None or packed:
        most = replace(most, tokens=min(most.tokens, rows.total_bytes + 1) if rows else most.tokens)
        return Requirement(most, replace(most, tokens=1), rows_decide=True)
    return Requirement(
        replace(most, tokens=rows.at_most(most.tokens, vocabulary)),
        replace(most, tokens=rows.at_least(most.tokens)),
        rows_decide=True,
    )


def bits_of(resolved: Resolved) -> int:
    """Bits of a base weight on the device."""
    fast = resolved.opensloth_config.fast_model_args
    if resolved.device == "cpu" or (fast.full_finetuning and resolved.engine == "transformers"):
        return 32
    return 4 if fast.load_in_4bit else 8 if fast.load_in_8bit else 16


def key_of(resolved: Resolved, need: Requirement, base_id: str, shape: ModelShape | None, data: str) -> str:
    """The job's shape: what it has in common with jobs of the same memory and speed; `data` is a digest of its rows."""
    config, args, lora = resolved.opensloth_config, resolved.training_args, resolved.opensloth_config.lora_args
    most = need.most
    adapter = "full"
    if lora is not None:
        targets = ",".join(sorted(most.lora_targets)) if most.lora_targets is not None else "all"
        adapter = f"r{lora.r} on {targets}{' with dropout' if most.lora_dropout else ''}"
    memory = [most.optimizer, most.checkpointing, str(args.per_device_eval_batch_size)]
    memory += [name for name in ("reference_adapter", "reference_model", "sharded") if getattr(most, name)]
    memory += ["packed"] if config.sequence_packing else []
    memory += [f"{config.grpo_args.num_generations} of {most.prompt_tokens}"] if config.grpo_args else []
    return shape_key(
        device=resolved.device,
        engine=resolved.engine,
        method=config.training_type,
        model=f"{base_id}@{shape.parameters if shape else '?'}",
        precision=PRECISIONS[most.bits],
        adapter=adapter,
        memory=" ".join(memory),
        tokens=most.tokens,
        batch=args.per_device_train_batch_size,
        passes=args.gradient_accumulation_steps,
        world_size=most.devices,
        data=data[:16] if need.rows_decide else "full",
    )


def estimates(shape: ModelShape, need: Requirement) -> tuple[Estimate, Estimate]:
    """What it may need and what it needs for certain."""
    least = estimate(shape, need.least)
    if need.least.tokens == 1:
        return estimate(shape, need.most), without_data(least)
    certain = {name: int(getattr(least, name) * _CERTAIN) for name in ("activations", "logits", "generation")}
    return estimate(shape, need.most), replace(least, **certain)


def steps_of(resolved: Resolved, rows: int | None, row_bytes: int | None, devices: int) -> int | None:
    """Optimizer steps; of packed rows by the usual four bytes a token. None where the rows are not known."""
    config, args = resolved.opensloth_config, resolved.training_args
    if args.max_steps > 0:
        return args.max_steps
    if rows is None:
        return None
    sequences = rows * (1 - (config.eval_split or 0))
    if config.sequence_packing and config.training_type == "sft" and row_bytes is not None:
        sequences = min(sequences, max(1.0, row_bytes / 4 / config.fast_model_args.max_seq_length))
    if config.training_type == "grpo" and config.grpo_args is not None:
        sequences *= config.grpo_args.num_generations
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    return max(1, math.ceil(math.ceil(sequences / batch) * args.num_train_epochs))


def _with_prompts(most: Training, grpo: GRPOArgs, rows: RowLengths | None, vocabulary: int) -> Requirement:
    """Answers may be as long as they are allowed to be; prompts not longer than the rows."""
    prompt = rows.at_most(most.prompt_tokens, vocabulary) if rows else most.prompt_tokens
    most = replace(most, prompt_tokens=prompt, tokens=prompt + grpo.max_completion_length)
    return Requirement(most, replace(most, tokens=1, prompt_tokens=0, sampled_rows=0), rows_decide=True)


def _limit(resolved: Resolved) -> int:
    """The longest sequence that the job lets through, in tokens."""
    config = resolved.opensloth_config
    longest = config.fast_model_args.max_seq_length
    own = {"dpo": config.dpo_args, "kto": config.kto_args, "orpo": config.orpo_args}.get(config.training_type)
    if own is not None:
        return min(longest, own.max_length)
    if config.training_type == "grpo" and config.grpo_args is not None:
        answer, prompt = config.grpo_args.max_completion_length, config.grpo_args.max_prompt_length
        return longest if prompt is None else prompt + answer
    return longest


def _compares(resolved: Resolved) -> bool:
    """Whether the method asks a reference model."""
    config = resolved.opensloth_config
    if config.training_type == "grpo":
        return config.grpo_args is not None and config.grpo_args.beta > 0
    return config.training_type in ("dpo", "kto")


def _checkpointing(resolved: Resolved) -> Checkpointing:
    wanted = resolved.opensloth_config.fast_model_args.use_gradient_checkpointing
    if not wanted:
        return "none"
    return "offload" if wanted == "unsloth" and resolved.engine == "unsloth" else "layers"


def _targets(names: list[str] | str) -> tuple[str, ...] | None:
    """None for every linear layer; a pattern is taken for all, too."""
    return None if isinstance(names, str) else tuple(names)
