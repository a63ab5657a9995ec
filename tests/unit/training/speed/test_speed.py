"""The faster parts compute what transformers, PEFT and TRL compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer import sft_trainer

from opensloth.datasets.collate import PackedCollator
from opensloth.training.packing_check import keeps_samples_apart
from opensloth.training.speed.apply import speed_up
from opensloth.training.speed.layers import fuse_gates, fuse_norms
from opensloth.training.speed.lora import fuse_lora
from opensloth.training.speed.loss import next_token_loss
from opensloth.training.speed.padding_free import NAME, drop_padding
from tests.support.tiny_model import make_tiny_model

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def load(model_path: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_path, **options)


def with_adapter(model: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=SEVEN, **options)
    adapted = peft.get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted


def padded(side: str = "right") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 200, (3, 20), generator=generator)
    mask = torch.ones_like(ids)
    for row, gone in enumerate([0, 7, 15]):
        mask[row, 20 - gone :] = 0
    if side == "left":
        mask = mask.flip(1)
    return {"input_ids": ids, "attention_mask": mask}


def outcome(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of the tokens, and the gradients of a loss over them."""
    logits = model(**batch, use_cache=False).logits
    kept = logits[batch["attention_mask"].bool()] if "attention_mask" in batch else logits
    (kept.float() ** 2).mean().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return kept.detach(), gradients


def same(ours: Any, theirs: Any, batch: dict[str, torch.Tensor], **tolerance: float) -> None:
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-6}
    (expected, gradients), (found, own) = outcome(theirs, batch), outcome(ours, batch)
    torch.testing.assert_close(found, expected, **tolerance)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, **tolerance, msg=name)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_dropout": 0.5}, {"use_dora": True}], ids=str)
def test_fused_lora_layers_have_pefts_results_and_gradients(options: dict[str, Any], model_path: Path) -> None:
    theirs = with_adapter(load(model_path), **options)
    ours = copy.deepcopy(theirs)
    assert fuse_lora(ours) == 14
    torch.manual_seed(5)
    expected, gradients = outcome(theirs, padded())
    torch.manual_seed(5)
    found, own = outcome(ours, padded())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_fused_layer_takes_the_adapter_away_and_switches_it(model_path: Path) -> None:
    theirs = with_adapter(load(model_path))
    theirs.add_adapter("ref", theirs.peft_config["default"])
    ours = copy.deepcopy(theirs)
    fuse_lora(ours)
    for model in (theirs, ours):
        model.set_adapter("ref")
    same(ours, theirs, padded())
    with theirs.disable_adapter(), ours.disable_adapter(), torch.no_grad():
        expected, found = theirs(**padded()).logits, ours(**padded()).logits
    torch.testing.assert_close(found, expected)


def test_a_fused_layer_under_autocast_is_as_near_to_the_truth_as_pefts(model_path: Path) -> None:
    truth, _ = outcome(with_adapter(load(model_path)), padded())
    theirs = with_adapter(load(model_path, dtype=torch.bfloat16))
    ours = copy.deepcopy(theirs)
    fuse_lora(ours)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (expected, _), (found, gradients) = outcome(theirs, padded()), outcome(ours, padded())
    assert (found - truth).norm() < 1.2 * (expected - truth).norm()
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


def test_norms_and_gates_have_the_results_of_transformers(model_path: Path) -> None:
    theirs = load(model_path)
    ours = copy.deepcopy(theirs)
    assert (fuse_norms(ours), fuse_gates(ours)) == (5, 2)
    same(ours, theirs, padded())


def test_a_norm_that_is_another_one_is_left_alone() -> None:
    config = AutoConfig.for_model(
        "gemma2", vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    assert (fuse_norms(model), fuse_gates(model), drop_padding(model)) == (0, 0, False)


def test_a_qwen2_runs_without_padding_and_a_model_whose_kernel_fails_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = AutoConfig.for_model(
        "qwen2", vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    ours, broken = copy.deepcopy(theirs), copy.deepcopy(theirs)
    assert drop_padding(ours)
    same(ours, theirs, padded())

    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr("opensloth.training.speed.padding_free._layout", fail)
    assert not drop_padding(broken)
    assert (broken.config._attn_implementation, "forward" in vars(broken.model)) == ("sdpa", False)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_padded_batch_without_its_padding_is_the_same_batch(side: str, checkpointing: bool, model_path: Path) -> None:
    theirs = load(model_path)
    ours = copy.deepcopy(theirs)
    assert drop_padding(ours)
    assert ours.config._attn_implementation == NAME
    for model in (theirs, ours):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    same(ours, theirs, padded(side))


def test_packed_rows_are_kept_apart_without_a_mask(model_path: Path) -> None:
    theirs = load(model_path)
    ours = copy.deepcopy(theirs)
    assert drop_padding(ours)
    assert keeps_samples_apart(ours)
    rows = [
        {"input_ids": list(range(10, 40)), "labels": list(range(10, 40)), "seq_lengths": [12, 8, 10]},
        {"input_ids": list(range(50, 75)), "labels": list(range(50, 75)), "seq_lengths": [25]},
    ]
    batch = PackedCollator(0, counts=False)(rows)
    del batch["labels"]
    expected, found = theirs(**batch, use_cache=False).logits, ours(**batch, use_cache=False).logits
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, :25], expected[1, :25], rtol=1e-4, atol=1e-5)


def test_answers_are_sampled_as_before(model_path: Path) -> None:
    theirs = load(model_path).eval()
    ours = copy.deepcopy(theirs)
    drop_padding(ours)
    batch = padded("left")
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(ours.generate(**batch, **options), theirs.generate(**batch, **options))


def test_what_is_saved_names_the_attention_of_transformers(model_path: Path, tmp_path: Path) -> None:
    model = load(model_path)
    speed_up(model)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    same(load(tmp_path), load(model_path), padded())


@pytest.mark.parametrize("divisor", [None, 17])
def test_the_loss_is_trls_with_its_gradients(divisor: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opensloth.training.speed.loss.CHUNK_TOKENS_CPU", 7)
    theirs = getattr(sft_trainer._chunked_cross_entropy_loss, "replaces", sft_trainer._chunked_cross_entropy_loss)
    torch.manual_seed(0)
    labels = torch.randint(50, (3, 12))
    labels[0, :5] = labels[2, 3:] = -100
    results = []
    for function in (theirs, None):
        hidden = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
        if function is None:
            out = next_token_loss(hidden, weight, labels, divisor)
        else:
            out = function(hidden, weight, 7, labels=labels, num_items_in_batch=divisor)
        (3 * out[0]).backward()
        results.append([*(value.detach().float() for value in out), hidden.grad, weight.grad])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_in_which_nothing_is_learned_has_a_loss_of_zero_and_gradients() -> None:
    hidden, weight = torch.randn(1, 4, 8, requires_grad=True), torch.randn(10, 8)
    loss, *_ = next_token_loss(hidden, weight, torch.full((1, 4), -100), None)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()
