"""What a training and its exports take in storage, in bytes."""

from __future__ import annotations

from opensloth.devices.estimate import Estimate, Training
from opensloth.devices.model_shape import ModelShape

_TOKENIZER = 16 * 2**20
"""The tokenizer, configs and the card beside the weights, at the most that is usual."""
_BLOCK = 32
_BYTES: dict[str, float] = {
    "merged_16bit": 2, "f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / _BLOCK, "q5_1": 24 / _BLOCK, "q5_0": 22 / _BLOCK,
    "q4_1": 20 / _BLOCK, "q4_0": 18 / _BLOCK,
}  # fmt: skip
"""Bytes for each parameter; GGUF's types hold blocks of 32 with a scale, and some with a minimum."""


def checkpoint_bytes(needed: Estimate, training: Training) -> int:
    """One checkpoint: what is trained, in the type that it is trained in, its optimizer and the tokenizer."""
    states = needed.optimizer * (training.devices if training.sharded else 1)
    return result_bytes(needed, training) + states + (needed.reference if training.reference_adapter else 0)


def result_bytes(needed: Estimate, training: Training) -> int:
    """The adapter, or the whole model."""
    whole = 4 * needed.trained_parameters if training.sharded else needed.weights
    return (whole if training.full else needed.adapter) + _TOKENIZER


def export_bytes(model: ModelShape, form: str) -> int:
    """The whole model as `merged_16bit` or in one of GGUF's types."""
    return int(model.parameters * _BYTES[form]) + _TOKENIZER
