"""Which files of a repository a split is, as people lay them out."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from opensloth.datasets.hub_files import choose_files
from opensloth.datasets.hub_names import parse_hub_dataset
from opensloth.errors import InvalidDataset
from opensloth.hub import Repository

GSM8K = {
    "configs": [
        {
            "config_name": name,
            "data_files": [
                {"split": "train", "path": f"{name}/train-*"},
                {"split": "test", "path": f"{name}/test-*"},
            ],
        }
        for name in ("main", "socratic")
    ]
}
GSM8K_FILES = [f"{name}/{split}-00000-of-00001.parquet" for name in ("main", "socratic") for split in ("train", "test")]


def chosen(name: str, files: list[str], card: dict[str, Any] | None = None) -> list[str]:
    wanted = parse_hub_dataset(name)
    assert wanted is not None
    sizes = dict.fromkeys(["README.md", ".gitattributes", *files], 1)
    return choose_files(Repository(wanted.id, "dataset", "0" * 40, sizes, card or {}), wanted).files


@pytest.mark.parametrize(
    ("name", "files", "card", "expected"),
    [
        ("a/b", ["rows.jsonl"], {}, ["rows.jsonl"]),
        ("a/b", ["b.csv", "a.csv", "dataset_infos.json"], {}, ["a.csv", "b.csv"]),
        ("a/b", ["train.json", "test.json", "dev.json"], {}, ["train.json"]),
        ("a/b[validation]", ["train.json", "test.json", "dev.json"], {}, ["dev.json"]),
        ("a/b[dev]", ["train.json", "test.json", "dev.json"], {}, ["dev.json"]),
        ("a/b", ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet"], {}, None),
        (
            "a/b[test_gen]",
            ["data/train_sft-00000-of-00001-ab12.parquet", "data/test_gen-00000-of-00001.parquet"],
            {},
            1,
        ),
        (
            "a/b",
            ["train/a.jsonl.gz", "train/b.jsonl.gz", "test/a.jsonl.gz"],
            {},
            ["train/a.jsonl.gz", "train/b.jsonl.gz"],
        ),
        ("a/b", ["en/x.jsonl", "de/x.jsonl", ".cache/x.jsonl", "__pycache__/y.json"], {}, ["de/x.jsonl", "en/x.jsonl"]),
        ("a/b:en", ["en/x.jsonl", "de/x.jsonl"], {}, ["en/x.jsonl"]),
        ("a/b:en/x.jsonl", ["en/x.jsonl", "en/x.parquet"], {}, ["en/x.jsonl"]),
        ("a/b", ["only-test.jsonl"], {}, ["only-test.jsonl"]),
        (
            "a/b:default",
            ["default/train/0000.parquet", "default/test/0000.parquet"],
            {},
            ["default/train/0000.parquet"],
        ),
        ("openai/gsm8k:main", GSM8K_FILES, GSM8K, ["main/train-00000-of-00001.parquet"]),
        ("openai/gsm8k:socratic[test]", GSM8K_FILES, GSM8K, ["socratic/test-00000-of-00001.parquet"]),
        ("a/b", ["x/a.csv", "y/b.csv"], {"configs": [{"config_name": "z", "data_files": "y/*.csv"}]}, ["y/b.csv"]),
        ("a/b", ["x/a.csv", "x/u/b.csv"], {"configs": [{"config_name": "z", "data_files": "**/b.csv"}]}, ["x/u/b.csv"]),
        ("a/b", ["x/a.csv", "y/b.csv"], {"configs": [{"config_name": "z", "data_dir": "./x"}]}, ["x/a.csv"]),
        (
            "a/b[extra]",
            ["a.csv", "b.csv"],
            {"configs": [{"config_name": "z", "data_files": {"train": "a.csv", "extra": ["b.csv"]}}]},
            ["b.csv"],
        ),
    ],
)
def test_a_split_is_found_by_the_card_or_by_names(
    name: str, files: list[str], card: dict[str, Any], expected: list[str] | int | None
) -> None:
    if expected is None:
        assert chosen(name, files, card) == sorted(files)
    elif isinstance(expected, int):
        assert chosen(name, files, card) == [files[expected]]
    else:
        assert chosen(name, files, card) == expected


@pytest.mark.parametrize(
    ("name", "files", "card", "said"),
    [
        ("a/b", ["script.py", "data.zip"], {}, "no Parquet, JSONL, JSON or CSV files"),
        ("a/b:fr", ["en/x.jsonl", "de/x.jsonl"], {}, "no configuration, folder or file 'fr'; there are: de, en"),
        ("a/b[val]", ["train.jsonl"], {}, "no split 'val'; there are: train"),
        ("a/b", ["test.jsonl", "dev.jsonl"], {}, "no split `train`, but validation, test"),
        ("a/b", ["train.jsonl", "train.parquet"], {}, "in several formats: train.jsonl, train.parquet"),
        ("a/b", ["train.jsonl", "train.jsonl.gz"], {}, "in several formats"),
        ("a/b", ["a.csv", "b.parquet"], {}, "in several formats"),
        ("a/b:x.csv[test]", ["x.csv"], {}, "is a file, which has no splits"),
        ("openai/gsm8k", GSM8K_FILES, GSM8K, "2 configurations: main, socratic"),
        ("a/b", ["x.csv"], {"configs": [{"config_name": "z", "data_files": "gone/*.csv"}]}, "no split 'train'"),
        ("a/b:y", ["x.csv"], {"configs": [{"config_name": "z", "data_files": "x.csv"}]}, "there are: z"),
    ],
)
def test_what_is_not_there_or_not_clear_is_said(name: str, files: list[str], card: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidDataset, match=".*".join(part.replace("(", r"\(") for part in [said])):
        chosen(name, files, card)


@pytest.mark.parametrize(
    "card",
    [
        {"configs": "no"},
        {"configs": [None, 3, {"config_name": 4}, {"config_name": None}]},
        {"configs": [{"config_name": "z", "data_files": [None, 5, {"split": "train"}, {"path": "x"}, "x.csv"]}]},
        {"configs": [{"config_name": "z", "data_files": {"train": 5}}]},
        {"configs": [{"config_name": "z", "data_files": "[[[*?"}, {"config_name": "default", "data_files": "x.csv"}]},
    ],
)
def test_a_card_of_nonsense_is_no_failure_of_ours(card: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidDataset):
        assert chosen("a/b", ["x.csv"], card) == ["x.csv"]
