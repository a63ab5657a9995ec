"""Each row's own sampling, from one tensor of scores."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from opensloth.chat.engine.sampling import Chooser, Sampling, choose

SCORES = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
PROBABILITIES = SCORES.softmax(-1)[0].tolist()


def drawn(times: int = 4000, **options: object) -> Counter[int]:
    chooser = Chooser(Sampling(seed=1, **options), 0)  # type: ignore[arg-type]
    return Counter(choose(SCORES, [chooser])[0].token for _ in range(times))


def test_tokens_come_as_often_as_they_are_likely() -> None:
    found = drawn()
    for token, probability in enumerate(PROBABILITIES):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.65}, {0, 1}), ({"top_p": 0.6}, {0}), ({"top_k": 3, "top_p": 0.9}, {0, 1})],
)
def test_only_the_likeliest_are_left(options: dict[str, float], kept: set[int]) -> None:
    assert set(drawn(500, **options)) == kept


def test_no_temperature_is_the_likeliest_token() -> None:
    assert set(drawn(20, temperature=0.0)) == {0}


@pytest.mark.parametrize("temperature", [1e-6, 1e-60])
def test_a_tiny_temperature_is_no_overflow(temperature: float) -> None:
    assert set(drawn(20, temperature=temperature)) == {0}


def test_a_bias_forbids_and_forces() -> None:
    assert 0 not in drawn(300, logit_bias={0: -100.0})
    assert set(drawn(50, logit_bias={3: 100.0})) == {3}


def test_penalties_are_for_what_was_said() -> None:
    chooser = Chooser(Sampling(temperature=0.0, frequency_penalty=0.6), 0)
    assert [choose(SCORES, [chooser])[0].token for _ in range(5)] == [0, 0, 1, 0, 1]
    once = Chooser(Sampling(temperature=0.0, presence_penalty=1.5), 0)
    assert [choose(SCORES, [once])[0].token for _ in range(4)] == [0, 1, 0, 0]


def test_log_probabilities_are_the_models_own() -> None:
    chooser = Chooser(Sampling(temperature=0.0, logprobs=2, logit_bias={3: 100.0}), 0)
    chosen = choose(SCORES, [chooser])[0]
    assert chosen.token == 3
    assert chosen.logprob == pytest.approx(math.log(PROBABILITIES[3]), abs=1e-5)
    assert [token for token, _ in chosen.top] == [0, 1]


def test_rows_of_one_batch_do_not_touch_each_other() -> None:
    greedy = Chooser(Sampling(temperature=0.0), 0)
    biased = Chooser(Sampling(temperature=0.0, logit_bias={2: 50.0}), 0)
    random = Chooser(Sampling(seed=5), 0)
    chosen = choose(SCORES.repeat(3, 1), [greedy, biased, random])
    assert [chosen[0].token, chosen[1].token] == [0, 2]
    assert chosen[2].token == choose(SCORES, [Chooser(Sampling(seed=5), 0)])[0].token
