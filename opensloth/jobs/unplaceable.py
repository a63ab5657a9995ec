"""Refusals of jobs that no device can hold, with the numbers and what would help."""

from __future__ import annotations

from dataclasses import replace

from opensloth.devices.estimate import GIB, Estimate, Training, estimate
from opensloth.devices.model_shape import ModelShape
from opensloth.errors import FieldError, InvalidInput
from opensloth.resolve_sharding import why_not_sharded

_PARTS = ("weights", "adapter", "gradients", "optimizer", "reference", "activations", "logits", "generation")


def beyond_box(asked: int, given: int, room: int) -> InvalidInput:
    """The refusal of a job that asks for more than the `given` bytes that the largest device has for jobs."""
    message = f"{gib(asked)} on each device, and the largest can give {gib(given)} of its {gib(room)}"
    return InvalidInput(
        "no device can give this job the memory that it asks for",
        code="unplaceable",
        fields=[FieldError("resources.memory", message, "unplaceable")],
        hint="ask for less, or leave resources.memory out",
    )


def unplaceable(model: ModelShape, asked: Training, least: Estimate, room: int, box: int) -> InvalidInput:
    """The refusal of a job that needs `least` for certain, where the largest device has `room` bytes.

    `box` is how many devices the largest host has.
    """
    parts = ", ".join(f"{name} {gib(size)}" for name, size in largest_parts(least))
    message = f"it needs {gib(least.total)} or more on a device ({parts}), and the largest has {gib(room)}"
    ways = cures(model, asked, room, box)
    cure = f"this would fit: {', or '.join(ways)}" if ways else "no setting makes it fit; take a smaller model"
    return InvalidInput(
        "no device of this box can hold this job",
        code="unplaceable",
        fields=[FieldError("opensloth_config.fast_model_args.model_name", message, "unplaceable")],
        hint=f"{cure}; if you know better, say what it needs in resources.memory",
    )


def cures(model: ModelShape, asked: Training, room: int, box: int) -> list[str]:
    """Settings with which the job is estimated to fit into `room` bytes: each alone, or else all together."""
    ways: list[tuple[str, Training]] = []

    def add(name: str, changed: Training) -> None:
        if changed != asked:
            ways.append((name, changed))

    lora = replace(asked, full=False, sharded=False, reference_model=False, lora_r=asked.lora_r or 16)
    if asked.method != "grpo":
        add("per_device_train_batch_size: 1", replace(asked, rows=1))
    if asked.checkpointing == "none":
        add("use_gradient_checkpointing: true", replace(asked, checkpointing="layers"))
    if asked.full:
        add("a LoRA adapter (full_finetuning: false)", replace(lora, bits=16 if asked.cuda else 32))
    if asked.cuda and (asked.full or asked.bits > 4):
        add("load_in_4bit: true" + (" with a LoRA adapter" if asked.full else ""), replace(lora, bits=4))
    fitting = [name for name, changed in ways if estimate(model, changed).total <= room]
    fitting += [f"resources.gpus: {devices}" for devices in _in_shards(model, asked, room, box)]
    if fitting or not ways:
        return fitting
    rows = asked.rows if asked.method == "grpo" else 1
    kept = asked.checkpointing if asked.checkpointing != "none" else "layers"
    smallest = replace(lora, rows=rows, checkpointing=kept, bits=4 if asked.cuda else 32)
    names = [name for name, _ in ways if not (asked.cuda and name.startswith("a LoRA"))]
    return [" and ".join(names)] if len(names) > 1 and estimate(model, smallest).total <= room else []


def _in_shards(model: ModelShape, asked: Training, room: int, box: int) -> list[int]:
    """The fewest devices over which the job's weights would fit in shards, if the largest host has so many."""
    if why_not_sharded(asked.method, "unsloth" if asked.unsloth else "transformers", full=asked.full) is not None:
        return []
    optimizer = "adamw_torch_fused" if asked.cuda else "adamw_torch"
    for devices in range(asked.devices + 1, box + 1):
        if estimate(model, replace(asked, sharded=True, devices=devices, optimizer=optimizer)).total <= room:
            return [devices]
    return []


def largest_parts(found: Estimate) -> list[tuple[str, int]]:
    """The three largest parts with their names."""
    parts = [(name, int(getattr(found, name))) for name in _PARTS]
    return sorted((part for part in parts if part[1]), key=lambda part: -part[1])[:3]


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / GIB:.1f} GiB"
