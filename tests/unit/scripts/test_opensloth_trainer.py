"""What a script's entry points do before anything is trained."""

import json
import logging

import pytest

from opensloth.opensloth_config import FastModelArgs, OpenSlothConfig, TrainingArguments
from opensloth.scripts.opensloth_trainer import load_rows, setup_envs

ROW = {"text": "one"}
CONFIG = OpenSlothConfig(fast_model_args=FastModelArgs(model_name="tiny"))


def test_rows_come_from_a_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    assert load_rows(str(file)) == [ROW]


def test_rows_come_from_a_directory_with_a_file_for_each_split(tmp_path):
    for split in ("train", "eval"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(ROW) + "\n")
    assert load_rows(str(tmp_path)) == {"train": [ROW], "eval": [ROW]}


def test_rows_come_from_a_dataset_that_was_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([ROW]).save_to_disk(str(tmp_path / "saved"))
    assert list(load_rows(str(tmp_path / "saved"))) == [ROW]


@pytest.mark.parametrize("path", [None, "nowhere"])
def test_data_that_is_not_there_is_said(path):
    with pytest.raises(FileNotFoundError):
        load_rows(path)


def test_a_tracker_that_is_not_installed_is_left_out_with_a_warning(monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    args = TrainingArguments(report_to=["tensorboard", "mlflow"])
    with caplog.at_level(logging.WARNING):
        setup_envs(CONFIG, args)
    assert args.report_to == ["mlflow"]
    assert "tensorboard" in caplog.text
