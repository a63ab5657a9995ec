"""Rows that decode together say exactly what transformers and PEFT say for each of them alone."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from opensloth.chat.engine import rows as kv
from opensloth.chat.engine.answers import AdapterRef, Piece, Row
from opensloth.chat.engine.decoder import Decoder
from opensloth.chat.engine.lora import WEIGHTS
from opensloth.chat.engine.sampling import Chooser, Sampling
from opensloth.chat.engine.text import TextStream
from tests.support.tiny_adapters import make_adapter
from tests.support.tiny_model import make_tiny_model

PROMPTS = ["Hi", "What is it that you would like to know about rivers?", "x" * 300, "Tell me", "ab " * 30]
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("chat") / "base")


@pytest.fixture(scope="module")
def adapters(folder: Path) -> list[Path]:
    """Of different ranks, scales and layers."""
    return [
        make_adapter(folder, folder.parent / "a0", 0),
        make_adapter(folder, folder.parent / "a1", 1, r=8, lora_alpha=4, use_rslora=True),
        make_adapter(folder, folder.parent / "a2", 2, target_modules=["q_proj", "v_proj"]),
        make_adapter(
            folder, folder.parent / "a3", 3, rank_pattern={"up_proj": 2}, alpha_pattern={"layers.0.mlp.up_proj": 32}
        ),
    ]


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


class Talk:
    """A decoder and what comes of its rows."""

    def __init__(self, folder: Path, tokenizer: Any, kv_tokens: int = 16384, max_rows: int = 32) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=kv.install()
        ).eval()
        self.decoder = Decoder(model, kv_tokens=kv_tokens, max_rows=max_rows)
        self.tokenizer = tokenizer
        self.pieces: dict[Row, list[Piece]] = {}

    def row(
        self, prompt: str, most: int = 20, adapter: Path | None = None, sampling: Sampling = GREEDY, index: int = 0
    ) -> Row:
        tokens = self.tokenizer(prompt)["input_ids"]
        pieces: list[Piece] = []
        reference = AdapterRef(str(adapter), adapter) if adapter else None
        stream = TextStream(self.tokenizer, tokens, [])
        row = Row(tokens, most, Chooser(sampling, index), stream, pieces.append, adapter=reference)
        self.pieces[row] = pieces
        return row

    def run(self, rows: list[Row]) -> None:
        self.decoder.add(rows)
        self.finish()

    def step(self) -> None:
        with torch.inference_mode():
            self.decoder.step()

    def finish(self) -> None:
        while self.decoder.load:
            self.step()

    def text(self, row: Row) -> str:
        return "".join(piece.text for piece in self.pieces[row])


def said(row: Row) -> list[int]:
    return row.tokens[row.prompt :]


@cache
def loaded(folder: Path, adapter: Path | None) -> Any:
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter).eval()


def alone(folder: Path, adapter: Path | None, tokens: list[int], most: int) -> list[int]:
    """What transformers' own generate says, with PEFT where there is an adapter."""
    inputs = torch.tensor([tokens])
    with torch.inference_mode():
        given = loaded(folder, adapter).generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=most,
            min_new_tokens=most,
            eos_token_id=None,
        )
    return given[0, len(tokens) :].tolist()


def test_a_batch_of_mixed_adapters_says_token_for_token_what_each_says_alone(
    folder: Path, adapters: list[Path], tokenizer: Any
) -> None:
    talk = Talk(folder, tokenizer)
    choices: list[Path | None] = [*adapters, None]
    rows = [talk.row(prompt, 24, choices[n % 5]) for n, prompt in enumerate(PROMPTS * 2)]
    late = [talk.row("And now?", 24, adapters[1]), talk.row("x" * 400, 24, None)]
    talk.decoder.add(rows)
    for _ in range(5):
        talk.step()
    talk.decoder.add(late)  # joins rows that are in the middle of their answers
    talk.finish()
    for row in [*rows, *late]:
        adapter = row.adapter.folder if row.adapter else None
        assert said(row) == alone(folder, adapter, row.tokens[: row.prompt], 24)
    assert len({tuple(said(row)) for row in rows[:5]}) == 5


def test_a_new_row_speaks_after_one_step_of_the_others(folder: Path, tokenizer: Any) -> None:
    talk = Talk(folder, tokenizer)
    first = [talk.row(prompt, 50) for prompt in PROMPTS]
    talk.decoder.add(first)
    for _ in range(4):
        talk.step()
    new = talk.row("Me too")
    talk.decoder.add([new])
    talk.step()
    assert new.spoken == 1


def test_a_cancelled_row_is_gone_before_the_next_step(folder: Path, tokenizer: Any) -> None:
    talk = Talk(folder, tokenizer)
    rows = [talk.row(prompt, 50) for prompt in PROMPTS]
    talk.decoder.add(rows)
    talk.step()
    talk.step()
    talk.decoder.cancel(rows[:4])
    talk.step()
    assert talk.decoder.load == 1
    talk.finish()
    assert said(rows[4]) == alone(folder, None, rows[4].tokens[: rows[4].prompt], 50)
    assert talk.decoder.store.taken == 0


def test_with_too_little_room_rows_wait_and_begin_again_and_still_say_the_same(folder: Path, tokenizer: Any) -> None:
    talk = Talk(folder, tokenizer, kv_tokens=1024)
    rows = [talk.row("y" * 240, 40), talk.row("Hi", 40), talk.row("z" * 250, 40), talk.row("x" * 100, 40)]
    talk.run(rows)
    for row in rows:
        assert said(row) == alone(folder, None, row.tokens[: row.prompt], 40)


def test_a_prompt_that_no_room_can_hold_is_refused_and_the_others_go_on(folder: Path, tokenizer: Any) -> None:
    talk = Talk(folder, tokenizer, kv_tokens=512)
    large, small = talk.row("x" * 600), talk.row("Hi")
    talk.run([large, small])
    error = talk.pieces[large][-1].error
    assert error is not None
    assert error[0] == "context_length_exceeded"
    assert small.spoken == 20


def test_what_comes_in_pieces_is_the_whole_text(folder: Path, tokenizer: Any) -> None:
    talk = Talk(folder, tokenizer)
    row = talk.row("Tell me", 60, sampling=Sampling(seed=3))
    talk.run([row])
    assert talk.text(row) == tokenizer.decode(said(row), skip_special_tokens=True)
    assert talk.pieces[row][-1].finish == "length"
    assert talk.pieces[row][-1].tokens == 60


def test_the_same_seed_says_the_same_whoever_else_is_there(folder: Path, tokenizer: Any) -> None:
    sampling = Sampling(seed=7, top_p=0.9, temperature=0.8)
    talk = Talk(folder, tokenizer)
    one = talk.row("Hi", sampling=sampling)
    talk.run([one])
    again, other = talk.row("Hi", sampling=sampling), talk.row("Hi", sampling=sampling, index=1)
    talk.run([talk.row(prompt) for prompt in PROMPTS] + [again, other])
    assert said(again) == said(one)
    assert said(other) != said(one)


def test_an_adapter_that_does_not_fit_the_base_ends_its_own_row_alone(
    folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    save_file(
        {f"{name}A.weight": torch.zeros(4, 99), f"{name}B.weight": torch.zeros(32, 4)},
        str(tmp_path / "adapter_model.safetensors"),
    )
    talk = Talk(folder, tokenizer)
    wrong, right = talk.row("Hi", adapter=tmp_path), talk.row("Hi")
    talk.run([wrong, right])
    error = talk.pieces[wrong][-1].error
    assert error is not None
    assert error[0] == "model_error"
    assert "another size" in error[1]
    assert right.spoken == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_an_adapter_with_damaged_numbers_or_files_is_refused_and_nobody_else_notices(
    folder: Path, adapters: list[Path], tokenizer: Any, tmp_path: Path, value: float | None
) -> None:
    from safetensors.torch import load_file, save_file

    bad = shutil.copytree(adapters[0], tmp_path / "bad")
    weights = load_file(str(bad / WEIGHTS))
    if value is None:
        (bad / WEIGHTS).write_bytes(b"\x08" + bytes(7) + b"not json")
    else:
        next(iter(weights.values()))[0, 0] = value
        save_file(weights, str(bad / WEIGHTS))
    talk = Talk(folder, tokenizer)
    wrong, right = talk.row("Hi", adapter=bad), talk.row("Hi", adapter=adapters[1])
    talk.run([wrong, right])
    error = talk.pieces[wrong][-1].error
    assert error is not None
    assert error[0] == "model_error"
    assert said(right) == alone(folder, adapters[1], right.tokens[: right.prompt], 20)


def test_what_overflows_in_one_adapter_is_not_in_the_answers_of_others(
    folder: Path, adapters: list[Path], tokenizer: Any, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    huge = shutil.copytree(adapters[0], tmp_path / "huge")
    weights = load_file(str(huge / WEIGHTS))
    save_file({name: tensor * (1e38 if "lora_A" in name else 1) for name, tensor in weights.items()}, huge / WEIGHTS)
    talk = Talk(folder, tokenizer)
    wrong, right = talk.row("Hi", adapter=huge), talk.row("Hi", adapter=adapters[1])
    talk.run([wrong, right])
    assert said(right) == alone(folder, adapters[1], right.tokens[: right.prompt], 20)
    assert "NaN" in str(talk.pieces[wrong][-1].error)


def test_more_adapters_than_places_for_them_take_turns(folder: Path, adapters: list[Path], tokenizer: Any) -> None:
    talk = Talk(folder, tokenizer)
    talk.decoder.adapters._most = 2
    for adapter in [*adapters, *adapters]:
        row = talk.row("Hi", 12, adapter)
        talk.run([row])
        assert said(row) == alone(folder, adapter, row.tokens[: row.prompt], 12)
    assert len(talk.decoder.adapters._slots) == 2
