"""Estimates grow with what costs memory, and come near what is known of real models."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from opensloth.devices.disk import checkpoint_bytes, export_bytes, result_bytes
from opensloth.devices.estimate import GIB, OPTIMIZER_BYTES, Training, estimate, lora_parameters, without_data
from opensloth.devices.model_shape import ModelShape, read_shape
from opensloth.jobs.spec_fields import OPTIMIZERS
from tests.support.real_shapes import SHAPES

SFT = Training(
    cuda=True,
    unsloth=False,
    method="sft",
    full=False,
    bits=16,
    rows=4,
    tokens=2048,
    checkpointing="layers",
    optimizer="adamw_8bit",
    lora_r=16,
)


def shape(name: str = "llama-8b", **changed: Any) -> ModelShape:
    found = read_shape({**SHAPES[name], "model_type": SHAPES[name]["kind"], **changed})
    assert found is not None
    return found


def anything(rng: random.Random) -> Training:
    method = rng.choice(["sft", "dpo", "kto", "orpo", "grpo"])
    rows, tokens = rng.choice([1, 2, 4, 8]), rng.choice([64, 512, 2048, 8192])
    full = rng.random() < 0.3
    return Training(
        cuda=rng.random() < 0.7,
        unsloth=rng.random() < 0.5,
        method=method,
        full=full,
        bits=16 if full else rng.choice([4, 8, 16]),
        rows=rows,
        tokens=tokens,
        checkpointing=rng.choice(["none", "layers", "offload"]),
        optimizer=rng.choice(list(OPTIMIZER_BYTES)),
        lora_r=0 if full else rng.choice([4, 16, 64]),
        lora_targets=rng.choice([None, ("q_proj", "v_proj")]),
        lora_dropout=rng.random() < 0.3,
        reference_adapter=not full and rng.random() < 0.3,
        reference_model=full and rng.random() < 0.3,
        prompt_tokens=tokens // 2 if method == "grpo" else 0,
        sampled_rows=rows * 4 if method == "grpo" else 0,
        devices=rng.choice([1, 2, 8]),
    )


@pytest.mark.parametrize("seed", range(200))
def test_more_of_anything_never_needs_less(seed: int) -> None:
    rng = random.Random(seed)
    asked, name = anything(rng), rng.choice(list(SHAPES))
    needed = estimate(shape(name), asked).total
    layers = int(str(SHAPES[name]["num_hidden_layers"]))
    assert estimate(shape(name, num_hidden_layers=2 * layers), asked).total > needed
    more = [
        replace(asked, rows=2 * asked.rows),
        replace(asked, tokens=2 * asked.tokens),
        replace(asked, lora_r=2 * asked.lora_r),
        replace(asked, sampled_rows=2 * asked.sampled_rows),
        replace(asked, lora_dropout=True),
        replace(asked, devices=2 * asked.devices),
        replace(asked, checkpointing="none"),
    ]
    assert all(estimate(shape(name), larger).total >= needed for larger in more)
    assert without_data(estimate(shape(name), asked)).total <= needed


@pytest.mark.parametrize("unsloth", [False, True])
def test_fewer_bits_need_less_and_all_weights_need_the_most(unsloth: bool) -> None:
    def total(**changed: Any) -> int:
        return estimate(shape(), replace(SFT, unsloth=unsloth, **changed)).total

    assert total(bits=4) < total(bits=8) < total(bits=16) < total(full=True, bits=16, lora_r=0)
    assert total(full=True, bits=16) < total(full=True, bits=16, optimizer="adamw_torch")
    assert total(checkpointing="layers") < total(checkpointing="none")


@pytest.mark.parametrize("name", ["llama-8b", "qwen3-0.6b"])
def test_shards_need_less_of_each_device_the_more_there_are(name: str) -> None:
    full = replace(SFT, full=True, bits=32, lora_r=0, optimizer="adamw_torch_fused", devices=2)
    whole = estimate(shape(name), full)
    two, four, eight = (estimate(shape(name), replace(full, sharded=True, devices=n)) for n in (2, 4, 8))
    assert whole.total > two.total > four.total > eight.total
    parts = 16 * shape(name).parameters
    assert parts / 2 < two.fixed < parts / 2 + 8 * GIB
    assert checkpoint_bytes(two, replace(full, sharded=True)) == checkpoint_bytes(whole, full)


def test_both_texts_of_a_pair_go_through_the_model_at_once() -> None:
    one, pair = (estimate(shape(), replace(SFT, method=method)) for method in ("kto", "dpo"))
    assert pair.activations > 1.5 * one.activations
    assert pair.logits == 2 * one.logits


def test_a_reference_is_an_adapter_or_a_second_model() -> None:
    dpo = replace(SFT, method="dpo")
    copied = estimate(shape(), replace(dpo, reference_adapter=True))
    assert copied.reference == copied.adapter
    full = estimate(shape(), replace(dpo, full=True, bits=32, reference_model=True))
    assert full.reference == full.weights == 4 * shape().parameters


def test_sampling_and_training_do_not_come_at_the_same_time() -> None:
    few, many = (
        estimate(shape(), replace(SFT, method="grpo", prompt_tokens=512, sampled_rows=rows)) for rows in (8, 512)
    )
    assert few.total == few.fixed + few.activations + few.logits
    assert many.total == many.fixed + many.generation > few.total


@pytest.mark.parametrize(
    ("name", "changed", "least", "most"),
    [
        # A LoRA adapter of rank 16 on Llama 8B has 41.9 million parameters; the weights are known to the byte.
        ("llama-8b", {}, 15.5, 26),
        ("llama-8b", {"bits": 4}, 8, 18),
        ("llama-8b", {"bits": 4, "unsloth": True, "checkpointing": "offload", "rows": 2}, 6, 12),
        # In 32 bits with an 8-bit Adam: 4 + 4 + 2 bytes for each weight.
        ("llama-1b", {"full": True, "lora_r": 0, "rows": 1}, 11.5, 18),
        ("qwen3-0.6b", {"rows": 1, "tokens": 512}, 2, 4),
    ],
)
def test_estimates_are_within_what_such_trainings_are_known_to_take(
    name: str, changed: dict[str, Any], least: float, most: float
) -> None:
    assert least * GIB < estimate(shape(name), replace(SFT, **changed)).total < most * GIB


def test_an_adapter_has_the_parameters_that_peft_gives_it() -> None:
    assert lora_parameters(shape(), SFT) == 41_943_040
    assert lora_parameters(shape(), replace(SFT, lora_targets=("q_proj", "v_proj"))) == 6_815_744
    assert lora_parameters(shape(), replace(SFT, lora_targets=("nothing",))) == 0


def test_scores_grow_with_the_square_of_the_length_only_where_attention_keeps_them() -> None:
    eager = shape(attn_logit_softcapping=50.0)

    def ratio(model: ModelShape) -> float:
        short, long = (estimate(model, replace(SFT, tokens=tokens)).activations for tokens in (4096, 8192))
        return long / short

    assert 2.0 <= ratio(shape()) < 2.2 < 3 < ratio(eager) < 4


def test_every_optimizer_that_a_job_may_name_has_its_size() -> None:
    assert set(OPTIMIZERS) <= OPTIMIZER_BYTES.keys()


def test_checkpoints_hold_what_is_trained_and_its_optimizer() -> None:
    adapter = estimate(shape(), SFT)
    assert checkpoint_bytes(adapter, SFT) - result_bytes(adapter, SFT) == adapter.optimizer
    full = replace(SFT, full=True, bits=32, optimizer="adamw_torch")
    whole = estimate(shape(), full)
    assert checkpoint_bytes(whole, full) == pytest.approx(12 * shape().parameters, rel=0.01)


def test_exports_are_as_large_as_their_types() -> None:
    sizes = [export_bytes(shape(), form) for form in ("q4_0", "q5_0", "q8_0", "merged_16bit", "f32")]
    assert sizes == sorted(sizes)
    assert sizes[2] == pytest.approx(8.5e9, rel=0.01)
