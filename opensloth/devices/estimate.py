"""What a training needs on each of its devices, in bytes: a pure function of the model's shape and of what is asked.

The factors of activations were fitted to the tensors that a Llama keeps under PyTorch's autograd (bfloat16 autocast on
CUDA, float32 on CPUs); `docs/memory.md` says how near the sums come to measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from opensloth.devices.model_shape import ModelShape

MIB, GIB = 2**20, 2**30
Checkpointing = Literal["none", "layers", "offload"]

_LOGITS = 14
"""Bytes for each logit of a loss that sees all of them: 16 and 32 bits, and the gradient of both."""
_CHUNK_TOKENS, _CHUNK_LOGITS = 512, 20
"""Tokens of the SFT loss that have logits at a time on a GPU, and bytes for each of these."""
_CHUNK_TOKENS_CPU = 256
_SAMPLING = 18
"""Bytes for each logit while answers are sampled: copies in 32 bits and what top-k and top-p sort."""
_KV_GROWTH = 1.25
"""A growing cache is copied layer by layer and leaves holes."""
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight in 4 bits: with double quantization a byte for 64 weights, and 4 for 256 of these."""
_HEAP_HOLES = 16
"""On a CPU: bytes for each token and unit of each MLP that the heap keeps of what backward has freed."""
_HOLES = 1.4
"""Batches without padding differ in size, and what comes and goes layer by layer leaves holes between them."""
_FLAT_BUFFER = 64 * MIB
"""Most gradient elements that are averaged over the ranks at once."""

OPTIMIZER_BYTES: dict[str, float] = {
    "adamw_torch": 8, "adamw_torch_fused": 8, "adamw_8bit": 2.1, "adamw_bnb_8bit": 2.1, "paged_adamw_8bit": 2.1,
    "paged_adamw_32bit": 8, "adafactor": 0.5, "sgd": 0, "adagrad": 4, "rmsprop": 4, "lion_8bit": 1.1, "lion_32bit": 4,
    "paged_lion_8bit": 1.1, "paged_lion_32bit": 4,
}  # fmt: skip
"""State for each trained parameter; 8-bit kinds with their scales."""
_STEP_BYTES = {"adamw_torch": 4, "adafactor": 4, "adagrad": 4, "rmsprop": 4}
"""What a step needs besides for each trained parameter, while it lasts."""


@dataclass(frozen=True)
class Training:
    """What is asked, in numbers; `tokens` is the length that each row is taken to have."""

    cuda: bool
    unsloth: bool
    method: str
    full: bool
    bits: int
    """Of the base weights: 4, 8, 16 or 32."""
    rows: int
    """Rows in one pass on one device, as configured: pairs for DPO and ORPO, answers for GRPO."""
    tokens: int
    checkpointing: Checkpointing
    optimizer: str
    lora_r: int = 0
    lora_targets: tuple[str, ...] | None = None
    """None: every linear layer."""
    lora_dropout: bool = False
    reference_adapter: bool = False
    """A frozen copy of the adapter that training goes on from."""
    reference_model: bool = False
    """A second model, to compare with."""
    prompt_tokens: int = 0
    sampled_rows: int = 0
    """Answers that GRPO samples at once on one device."""
    devices: int = 1
    sharded: bool = False
    """Each device holds a part of the weights, their gradients and the optimizer's states."""

    @property
    def passes(self) -> int:
        """Sequences in one pass: both texts of a pair."""
        return self.rows * (2 if self.method in ("dpo", "orpo") else 1)


@dataclass(frozen=True)
class Estimate:
    """Bytes on each device, by what they are for."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    logits: int
    generation: int
    """Sampling answers: their KV cache and logits; not at the same time as activations and logits."""
    step: int
    """While the optimizer steps; not at the same time as activations either."""
    context: int
    """What is there before the first tensor: CUDA's context and kernels, on a CPU the libraries."""
    trained_parameters: int

    @property
    def fixed(self) -> int:
        """What does not depend on the data."""
        return self.weights + self.adapter + self.gradients + self.optimizer + self.reference + self.context

    @property
    def total(self) -> int:
        """The peak: what is there all the time, and the largest of what comes and goes."""
        return self.fixed + max(self.activations + self.logits, self.generation, self.step)


class _Factors(NamedTuple):
    """Bytes for each token and unit of hidden width, attention width and MLP width."""

    hidden: float
    attention: float
    mlp: float

    def of(self, shape: ModelShape) -> float:
        """Bytes for each token."""
        return self.hidden * shape.hidden + self.attention * shape.query + self.mlp * shape.intermediate


# By whether all runs in 32 bits, whether the stream between layers does: kept by each layer, and once, in backward.
_KEPT_16, _ONCE_16, _EDGE_16 = _Factors(18, 10, 8), _Factors(30, 10, 14), 2
_KEPT_MIXED, _ONCE_MIXED, _EDGE_MIXED = _Factors(24, 11, 8), _Factors(40, 11, 14), 4
_KEPT_LEAN, _ONCE_LEAN = _Factors(9, 4, 6), _Factors(20, 8, 12)
"""With the adapter's, the norms' and the gates' own steps of autograd (`opensloth/training/speed`), in 16 bits."""
_KEPT_32, _ONCE_32, _EDGE_32 = _Factors(21, 16, 14), _Factors(24, 16, 24), 4


def estimate(shape: ModelShape, training: Training) -> Estimate:
    """The parts; monotone in rows, tokens, layers and, but for what is sharded, ranks."""
    adapter = 0 if training.full else lora_parameters(shape, training)
    trained = shape.parameters if training.full else adapter
    held = -(-trained // training.devices) if training.sharded else trained
    in_16 = training.full and training.unsloth and training.cuda
    gradients = held * (2 if in_16 else 4) + (0 if training.sharded else _averaging(trained, training.devices))
    gathered = _gathered(shape, training) if training.sharded else _Gathered(0, 0, 0)
    return Estimate(
        weights=(4 * held if training.sharded else _weights(shape, training)) + gathered.weights,
        adapter=adapter * 4,
        gradients=gradients + gathered.gradients,
        optimizer=int(held * OPTIMIZER_BYTES.get(training.optimizer, 8)),
        reference=_reference(shape, training, adapter),
        activations=_activations(shape, training),
        logits=_logits(shape, training),
        generation=_generation(shape, training),
        step=max(int(held * _STEP_BYTES.get(training.optimizer, 0)), gathered.last),
        context=_context(training),
        trained_parameters=trained,
    )


def lora_parameters(shape: ModelShape, training: Training) -> int:
    """Parameters of the adapter: r for each input and output of a layer that has one."""
    wanted = training.lora_targets
    layers = [linear for linear in shape.linears if wanted is None or linear.name in wanted]
    return sum(training.lora_r * (linear.inputs + linear.outputs) * linear.count for linear in layers)


def without_data(estimate: Estimate) -> Estimate:
    """What is certain whatever the rows are."""
    return replace(estimate, activations=0, logits=0, generation=0)


def _weights(shape: ModelShape, training: Training) -> int:
    others = shape.embeddings + shape.rest
    if not training.cuda:
        return 4 * shape.parameters
    if training.full:
        return (2 if training.unsloth else 4) * shape.parameters
    if training.bits == 16:
        return 2 * shape.parameters
    if training.bits == 32:
        return 4 * shape.parameters
    linear = _NF4 if training.bits == 4 else 1 + 4 / max(1, shape.hidden)
    return int(linear * shape.linear_parameters) + 2 * others


class _Gathered(NamedTuple):
    """Bytes of what is whole for a while of a sharded model: weights, gradients, and both as backward ends."""

    weights: int
    gradients: int
    last: int


def _gathered(shape: ModelShape, training: Training) -> _Gathered:
    """The output layer all the time, two of the layers, and one layer's gradients, which are averaged in 32 bits.

    The embeddings, where they are no output layer too, come last in the backward pass: nothing else is there then.
    """
    width = 2 if training.cuda else 4
    head, layer = shape.vocab * shape.hidden, shape.linear_parameters // max(1, shape.layers)
    last = 0 if shape.tied else head * (2 * width + 4)
    return _Gathered(width * (head + 2 * layer), width * head + (width + 4) * layer, last)


def _reference(shape: ModelShape, training: Training, adapter: int) -> int:
    copy = adapter * 4 if training.reference_adapter else 0
    return copy + (_weights(shape, training) if training.reference_model else 0)


def _averaging(trained: int, devices: int) -> int:
    """The flat buffer that ranks average, and DDP's own buckets."""
    return 0 if devices == 1 else 4 * trained + 4 * min(trained, _FLAT_BUFFER)


def _activations(shape: ModelShape, training: Training) -> int:
    count = training.passes * training.tokens
    kept, once, edge = _KEPT_16, _ONCE_16, _EDGE_16
    if not training.cuda:
        kept, once, edge = _KEPT_32, _ONCE_32, _EDGE_32
    elif training.full and not (training.unsloth or training.sharded):
        kept, once, edge = _KEPT_MIXED, _ONCE_MIXED, _EDGE_MIXED
    elif _lean(training):
        kept, once = _KEPT_LEAN, _ONCE_LEAN
    size = once.of(shape)
    dropped = 9 * (5 * shape.hidden + shape.query + shape.intermediate) if training.lora_dropout else 0
    scores = _scores(shape, training)
    if training.checkpointing == "none":
        size += shape.layers * (kept.of(shape) + dropped)
        scores *= shape.layers
    else:
        size += dropped
        # Unsloth keeps the layers' inputs in the host's memory; two are on the device at a time.
        size += shape.hidden * edge * (2 if training.checkpointing == "offload" else shape.layers)
        if _lean(training):
            size *= _HOLES
    if not training.cuda:
        size += shape.layers * shape.intermediate * _HEAP_HOLES
    copied = training.full and training.cuda and not (training.unsloth or training.sharded)
    casts = 2 * shape.linear_parameters if copied else 0
    dequantized = 2 * shape.largest_linear if training.bits in (4, 8) else 0
    return int(count * size + scores + casts + dequantized)


def _lean(training: Training) -> bool:
    """Whether the layers are those of `opensloth/training/speed`: an adapter without dropout on 16 or 4 bits."""
    return training.cuda and not (training.unsloth or training.full or training.lora_dropout or training.bits == 8)


def _scores(shape: ModelShape, training: Training) -> float:
    """What grows with the square of the length: the mask, and the scores where attention keeps them."""
    pairs = training.passes * training.tokens**2
    return pairs * (5 + (10 * shape.heads if shape.eager else 0))


def _logits(shape: ModelShape, training: Training) -> int:
    if training.method == "sft":
        count = training.passes * training.tokens
        head = 6 * shape.vocab * shape.hidden if training.full else 0
        most = _CHUNK_TOKENS if training.cuda and not training.unsloth else _CHUNK_TOKENS_CPU
        chunk = min(count, most) * shape.vocab * _CHUNK_LOGITS
        return chunk + head + 8 * count * shape.hidden
    answer = training.tokens - (training.prompt_tokens if training.method == "grpo" else 0)
    return training.passes * max(1, answer) * shape.vocab * _LOGITS


def _generation(shape: ModelShape, training: Training) -> int:
    if not training.sampled_rows:
        return 0
    rows, width = training.sampled_rows, 2 if training.cuda else 4
    cache = rows * training.tokens * 2 * shape.key_value * shape.layers * width * _KV_GROWTH
    prefill = rows * training.prompt_tokens * width * (6 * shape.hidden + 3 * shape.intermediate)
    return int(cache + prefill + rows * shape.vocab * _SAMPLING)


def _context(training: Training) -> int:
    if not training.cuda:
        return 520 * MIB
    size = 1280 * MIB if training.unsloth else 800 * MIB
    return size + (512 * MIB if training.devices > 1 else 0)
