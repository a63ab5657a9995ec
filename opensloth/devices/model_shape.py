"""How large a model is, from its `config.json` and the headers of its weights, without loading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head"),
    "vocab": ("vocab_size",),
}
"""What families call the same number."""
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embeddings.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
_UNGATED = frozenset({"gpt2", "gpt_neox", "opt", "bloom", "phi", "falcon", "gptj", "starcoder2"})
"""Families whose MLP has no gate."""


@dataclass(frozen=True)
class Linear:
    """`count` layers called `name` that map `inputs` numbers to `outputs`."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def parameters(self) -> int:
        """Weights of all of them."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class ModelShape:
    """The numbers that memory follows from; `query` and `key_value` are widths: heads times their dimension."""

    family: str
    hidden: int
    layers: int
    heads: int
    query: int
    key_value: int
    intermediate: int
    vocab: int
    tied: bool
    linears: tuple[Linear, ...]
    rest: int
    """Parameters that are neither in `linears` nor embeddings: norms, biases."""
    eager: bool = False
    """Its attention cannot do without the matrix of scores."""

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings and, where it is not tied to them, the output layer."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def linear_parameters(self) -> int:
        """Parameters of the layers that can be held in 4 or 8 bits."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.linear_parameters + self.embeddings + self.rest

    @property
    def largest_linear(self) -> int:
        """Parameters of the largest single layer."""
        return max((linear.inputs * linear.outputs for linear in self.linears), default=0)


def read_shape(config: Mapping[str, Any], tensors: Mapping[str, Sequence[int]] | None = None) -> ModelShape | None:
    """The shape of a model with this `config.json`; None where it does not say enough.

    `tensors` are the shapes of its weights by name, from the headers of its safetensors files; they tell exactly what
    a config leaves open (a family's own layers), where there are some.
    """
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    found = {name: _number(config, names) for name, names in _NAMES.items()}
    if not all(found.values()):
        return None
    hidden, layers, heads, vocab = (found[name] for name in ("hidden", "layers", "heads", "vocab"))
    head_dim = _number(config, ("head_dim",)) or hidden // heads
    query = heads * head_dim
    key_value = (_number(config, ("num_key_value_heads",)) or heads) * head_dim
    intermediate = _number(config, ("intermediate_size", "n_inner", "ffn_dim")) or 4 * hidden
    family = str(config.get("model_type") or "")
    tied = bool(config.get("tie_word_embeddings", family.startswith("gemma") or family == "gpt2"))
    linears = _named_linears(config, family, hidden, query, key_value, intermediate, layers)
    rest = (2 * layers + 1) * hidden
    if tensors and not config.get("quantization_config"):  # packed weights do not have the layers' shapes
        linears, rest, tied = _from_tensors(tensors)
        vocab = next((shape[0] for name, shape in tensors.items() if name.endswith(_EMBEDDINGS)), vocab)
    eager = bool(config.get("attn_logit_softcapping")) or config.get("_attn_implementation") == "eager"
    return ModelShape(
        family, hidden, layers, heads, query, key_value, intermediate, vocab, tied, linears, rest, eager=eager
    )


def _number(config: Mapping[str, Any], names: Sequence[str]) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
    return 0


def _named_linears(
    config: Mapping[str, Any], family: str, hidden: int, query: int, key_value: int, intermediate: int, layers: int
) -> tuple[Linear, ...]:
    """The seven projections of a block, those of the MLP once for each expert."""
    experts = _number(config, ("num_local_experts", "num_experts", "n_routed_experts"))
    inner = (_number(config, ("moe_intermediate_size",)) if experts else 0) or intermediate
    blocks = layers * max(1, experts)
    gate = () if family in _UNGATED else (Linear("gate_proj", hidden, inner, blocks),)
    return (
        Linear("q_proj", hidden, query, layers),
        Linear("k_proj", hidden, key_value, layers),
        Linear("v_proj", hidden, key_value, layers),
        Linear("o_proj", query, hidden, layers),
        *gate,
        Linear("up_proj", hidden, inner, blocks),
        Linear("down_proj", inner, hidden, blocks),
    )


def _from_tensors(tensors: Mapping[str, Sequence[int]]) -> tuple[tuple[Linear, ...], int, bool]:
    """Layers, other parameters, and whether the output layer is that of the embeddings."""
    counts: dict[tuple[str, int, int], int] = {}
    rest, tied = 0, True
    for name, shape in tensors.items():
        if name.endswith(_EMBEDDINGS):
            continue
        if name.endswith(_HEADS):
            tied = False
        elif len(shape) == 2 and name.endswith(".weight"):
            key = (name.split(".")[-2], int(shape[1]), int(shape[0]))
            counts[key] = counts.get(key, 0) + 1
        else:
            rest += _product(shape)
    linears = [Linear(name, inputs, outputs, count) for (name, inputs, outputs), count in sorted(counts.items())]
    return tuple(linears), rest, tied


def _product(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= int(side)
    return size
