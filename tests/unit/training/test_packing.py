"""A packed sample has the logits and gradients that it has alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from opensloth.datasets.collate import PackedCollator
from opensloth.datasets.prepare import prepare_sft
from opensloth.training.packing_check import keeps_samples_apart
from tests.support.tiny_model import make_tiny_model, make_tokenizer
from tests.support.training import sft_rows


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_gradients_are_those_of_the_samples_alone(attention: str, model_path: Path) -> None:
    tokenizer = make_tokenizer()
    rows = sft_rows(9)
    alone = prepare_sft(rows, tokenizer, max_length=200).dataset
    packed = prepare_sft(rows, tokenizer, max_length=200, packing=True).dataset
    assert len(packed) < len(alone)
    model = AutoModelForCausalLM.from_pretrained(model_path, attn_implementation=attention)
    count = sum(label != -100 for row in alone for label in row["labels"])

    logits = {}
    for row in alone:
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        outputs = model(input_ids=ids, labels=labels, num_items_in_batch=count, use_cache=False)
        outputs.loss.backward()
        logits[tuple(row["input_ids"])] = outputs.logits[0].detach()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    model.zero_grad()
    batch = PackedCollator(tokenizer.pad_token_id)(list(packed))
    assert int(batch.pop("num_samples").sum()) == 9
    assert int(batch.pop("num_tokens").sum()) == sum(len(row["input_ids"]) for row in alone)
    outputs = model(**batch, num_items_in_batch=count, use_cache=False)
    outputs.loss.backward()
    for i, row in enumerate(packed):
        start = 0
        for length in row["seq_lengths"]:
            sample = tuple(row["input_ids"][start : start + length])
            torch.testing.assert_close(outputs.logits[i, start : start + length], logits[sample], rtol=1e-4, atol=1e-4)
            start += length
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_a_model_that_ignores_positions_is_found_out(model_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path)
    assert keeps_samples_apart(model)
    forward = model.forward
    model.forward = lambda input_ids, position_ids, use_cache: forward(input_ids=input_ids, use_cache=use_cache)
    assert not keeps_samples_apart(model)


def test_a_model_that_mixes_samples_only_in_training_is_found_out(model_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path)
    forward = model.forward

    def unaware(input_ids, position_ids, use_cache):
        return forward(input_ids=input_ids, position_ids=None if model.training else position_ids, use_cache=use_cache)

    model.forward = unaware
    assert not keeps_samples_apart(model)
    assert not model.training


def test_positions_start_anew_at_each_sample_and_padding_is_one_of_its_own() -> None:
    rows = [
        {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "seq_lengths": [3, 2]},
        {"input_ids": [6, 7], "labels": [-100, 7], "seq_lengths": [2]},
    ]
    batch = PackedCollator(pad_token_id=0)(rows)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5], [-100, 7, -100, -100, -100]]
