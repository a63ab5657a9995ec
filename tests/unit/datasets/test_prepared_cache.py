"""The same data is prepared once, whoever asks when; what is damaged is made anew, and what is old makes room."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from opensloth.datasets.canonical import CanonicalRows, FileRows
from opensloth.datasets.prepare import prepare_dpo, prepare_sft
from opensloth.datasets.prepared import Prepared
from opensloth.datasets.prepared_cache import DATA, PreparedCache, tokenizer_fingerprint
from opensloth.datasets.prompts import prepare_grpo
from opensloth.rewards import RewardPolicy, build_rewards
from tests.support.tiny_model import CHAT_TEMPLATE, make_tokenizer

TOKENIZER = make_tokenizer()
ROWS = [{"instruction": "Say it", "output": "it " * n} for n in range(1, 40)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def prepare(data: Path, cache: PreparedCache, **options) -> Prepared:
    rows = CanonicalRows(FileRows(data, "jsonl", data.name, "a-hash", cache), "sft")
    return prepare_sft(rows, TOKENIZER, **{"max_length": 128, "packing": True, **options})


def test_a_second_preparation_reads_what_the_first_wrote_and_not_the_file(data, tmp_path):
    cache = PreparedCache(tmp_path / "cache")
    first = prepare(data, cache)
    data.unlink()
    second = prepare(data, cache)
    assert (first.counts.reused, second.counts.reused) == (False, True)
    assert first.dataset.to_list() == second.dataset.to_list()
    assert {**second.counts.to_dict(), "reused": False} == first.counts.to_dict()


def test_what_another_process_of_the_job_prepared_is_not_said_to_come_from_an_earlier_job(data, tmp_path):
    folder = tmp_path / "cache"
    ranks = [prepare(data, PreparedCache(folder, job="first")).counts for _ in range(2)]
    later = prepare(data, PreparedCache(folder, job="second")).counts
    assert [counts.reused for counts in (*ranks, later)] == [False, False, True]
    assert "earlier job" not in ranks[1].sentence()


def test_other_lengths_options_templates_and_methods_are_prepared_on_their_own(data, tmp_path):
    cache = PreparedCache(tmp_path / "cache")
    prepare(data, cache)
    assert not prepare(data, cache, max_length=64).counts.reused
    assert not prepare(data, cache, packing=False).counts.reused
    assert not prepare(data, cache, loss_on="all").counts.reused
    assert prepare(data, cache).counts.reused
    other = make_tokenizer(CHAT_TEMPLATE + " ")
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(TOKENIZER)
    TOKENIZER(["a"], truncation=True, max_length=2)  # leaves a trace in the tokenizer
    assert tokenizer_fingerprint(make_tokenizer()) == tokenizer_fingerprint(TOKENIZER)


def test_prompts_are_prepared_anew_for_rewards_that_read_other_columns_and_not_for_other_weights(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": "How?", "answer": "4", "result": str(n)}) + "\n" for n in range(9)))
    cache = PreparedCache(tmp_path / "cache")

    def prompts(weight: float, **params) -> Prepared:
        rewards = build_rewards([{"name": "exact_match", "weight": weight, "params": params}], RewardPolicy())
        rows = CanonicalRows(FileRows(path, "jsonl", path.name, "a-hash", cache), "grpo")
        return prepare_grpo(rows, TOKENIZER, rewards, max_prompt_length=64)

    first = prompts(1.0)
    again = prompts(2.0)
    other = prompts(1.0, column="result")
    assert [found.counts.reused for found in (first, again, other)] == [False, True, False]
    assert again.dataset.to_list() == first.dataset.to_list()
    assert json.loads(other.dataset[8]["row"]) == {"prompt": "How?", "result": "8"}


def test_a_damaged_entry_is_made_anew(data, tmp_path):
    cache = PreparedCache(tmp_path / "cache")
    first = prepare(data, cache).dataset.to_list()
    (stored,) = (tmp_path / "cache").glob(f"*/{DATA}")
    stored.write_bytes(stored.read_bytes()[:-100] + bytes(100))
    again = prepare(data, cache)
    assert not again.counts.reused
    assert again.dataset.to_list() == first
    stored.parent.joinpath("meta.json").write_text("{")
    assert not prepare(data, cache).counts.reused
    assert prepare(data, cache).counts.reused


def test_what_was_used_longest_ago_makes_room(data, tmp_path):
    folder = tmp_path / "cache"
    for length in (64, 128):
        prepare(data, PreparedCache(folder), max_length=length)
    size = sum(path.stat().st_size for path in folder.glob(f"*/{DATA}"))
    for path in folder.glob(f"*/{DATA}"):
        os.utime(path, (1, 1))
    assert prepare(data, PreparedCache(folder), max_length=64).counts.reused
    prepare(data, PreparedCache(folder, size + 100), max_length=96)
    assert prepare(data, PreparedCache(folder), max_length=64).counts.reused
    assert not prepare(data, PreparedCache(folder), max_length=128).counts.reused


def _ask(folder: Path, barrier, made) -> None:
    def make(path: Path) -> dict[str, int]:
        with made.get_lock():
            made.value += 1
        path.write_bytes(b"x" * 1000)
        return {"rows": 1}

    barrier.wait()
    with PreparedCache(folder).get("key", make) as entry:
        assert entry.data.read_bytes() == b"x" * 1000


def test_of_two_that_ask_at_once_one_prepares(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, made = context.Barrier(3), context.Value("i", 0)
    children = [context.Process(target=_ask, args=(tmp_path, barrier, made)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert made.value == 1


def test_several_processes_prepare_what_one_does(tmp_path):
    rows = [{"prompt": f"p{n}", "chosen": "c" * (n % 50 + 1), "rejected": "r"} for n in range(6000)]
    alone = prepare_dpo(rows, TOKENIZER, max_length=40, processes=1)
    together = prepare_dpo(rows, TOKENIZER, max_length=40, processes=2)
    assert alone.counts == together.counts
    assert alone.dataset.data.table.equals(together.dataset.data.table)
