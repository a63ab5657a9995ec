"""Shapes of models are read from what lies beside their weights."""

from __future__ import annotations

from typing import Any

import pytest

from opensloth.devices.model_shape import read_shape
from tests.support.real_shapes import SHAPES


def config(name: str, **changed: Any) -> dict[str, Any]:
    return {**SHAPES[name], "model_type": SHAPES[name]["kind"], **changed}


@pytest.mark.parametrize(("name", "billions"), [("llama-1b", 1.236), ("llama-8b", 8.030), ("qwen3-0.6b", 0.596)])
def test_a_config_tells_how_many_parameters_its_family_has(name: str, billions: float) -> None:
    shape = read_shape(config(name))
    assert shape is not None
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.001)


def test_the_headers_of_the_weights_say_what_a_config_leaves_open() -> None:
    tensors = {
        "model.embed_tokens.weight": [100, 8],
        "lm_head.weight": [100, 8],
        "model.layers.0.self_attn.qkv_proj.weight": [24, 8],
        "model.layers.1.self_attn.qkv_proj.weight": [24, 8],
        "model.layers.0.self_attn.qkv_proj.bias": [24],
        "model.norm.weight": [8],
    }
    values = {"model_type": "own", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 90}
    shape = read_shape(values, tensors)
    assert shape is not None
    assert [(linear.name, linear.inputs, linear.outputs, linear.count) for linear in shape.linears] == [
        ("qkv_proj", 8, 24, 2)
    ]
    assert (shape.vocab, shape.tied, shape.rest) == (100, False, 32)
    assert shape.parameters == 2 * 800 + 2 * 192 + 32


def test_packed_weights_are_no_measure_of_their_layers() -> None:
    packed = {"model.layers.0.mlp.up_proj.weight": [4096, 1]}
    values = config("llama-1b", quantization_config={"load_in_4bit": True})
    assert read_shape(values, packed) == read_shape(config("llama-1b"))


def test_the_text_part_of_a_larger_model_counts() -> None:
    nested = {"model_type": "gemma3", "text_config": {**config("llama-1b"), "model_type": "gemma3_text"}}
    shape = read_shape(nested)
    assert shape is not None
    assert (shape.family, shape.hidden) == ("gemma3_text", 2048)


def test_every_expert_counts() -> None:
    dense = read_shape(config("llama-1b"))
    experts = read_shape(config("llama-1b", num_local_experts=4))
    assert dense is not None
    assert experts is not None
    assert experts.parameters - dense.parameters == 3 * 3 * 2048 * 8192 * 16


@pytest.mark.parametrize("values", [{}, {"hidden_size": 8}, {"hidden_size": "8"}, config("llama-1b", vocab_size=-1)])
def test_a_config_that_says_too_little_gives_no_shape(values: dict[str, Any]) -> None:
    assert read_shape(values) is None
