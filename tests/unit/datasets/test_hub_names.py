"""How a dataset of the hub is spelled, and what is not taken for one."""

from __future__ import annotations

import pytest

from opensloth.datasets.hub_names import HubDataset, parse_hub_dataset


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("openai/gsm8k", HubDataset("openai/gsm8k")),
        ("openai/gsm8k:main[test]", HubDataset("openai/gsm8k", None, "main", "test")),
        ("a/b@v1.0[train_sft]", HubDataset("a/b", "v1.0", None, "train_sft")),
        ("a/b@refs/convert/parquet:en/part-1", HubDataset("a/b", "refs/convert/parquet", "en/part-1")),
        ("a/b:data/train.jsonl.gz", HubDataset("a/b", None, "data/train.jsonl.gz")),
        ("wikimedia/wikipedia:20231101.en", HubDataset("wikimedia/wikipedia", None, "20231101.en")),
    ],
)
def test_a_name_says_repository_revision_part_and_split(text: str, meant: HubDataset) -> None:
    assert parse_hub_dataset(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gsm8k",
        "a/b/c",
        "/a/b",
        "a/b/",
        "../b",
        "a/..b..",
        "a/b:../c",
        "a/b:/etc/passwd",
        "a/b@..",
        "a/b@-x",
        "a/b[]",
        "a/b[te st]",
        "a/b[train]:main",
        "a/b:main@v1",
        "a/b\n",
        "a/b\u0000",
        "a/b\u202e",
        "ä/b",
        "a/b?x=1",
        "a/b#x",
        "hf://datasets/a/b",
        "https://huggingface.co/datasets/a/b",
        "data/train.jsonl",
        "a/b:" + "x" * 400,
    ],
)
def test_anything_else_is_no_name(text: str) -> None:
    assert parse_hub_dataset(text) is None


def test_only_a_whole_commit_stands_for_the_same_rows_for_ever() -> None:
    assert parse_hub_dataset(f"a/b@{'0a' * 20}").is_fixed  # type: ignore[union-attr]
    assert not any(parse_hub_dataset(name).is_fixed for name in ("a/b", "a/b@main", "a/b@0a0a0a0a"))  # type: ignore[union-attr]
    assert parse_hub_dataset("a/b@v1:c[d]").rows == "a/b:c[d]"  # type: ignore[union-attr]
