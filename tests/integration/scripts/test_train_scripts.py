"""The scripts as people run them, on a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[3]


def run(script, *options):
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.mark.slow
def test_train_qwen_trains_and_saves_an_adapter(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    done = run("train_scripts/train_qwen.py", "--model", model, "--output_dir", tmp_path / "out", "--max_steps", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 16
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.slow
def test_dpo_trains_on_prepared_pairs_of_ones_own(tmp_path):
    pairs = [{"prompt": f"Question {n}?", "chosen": "Gladly.", "rejected": "No."} for n in range(4)]
    (tmp_path / "preferences.json").write_text(json.dumps(pairs))
    model = make_tiny_model(tmp_path / "model")
    prepare = ("--input_file", tmp_path / "preferences.json", "--output_dir", tmp_path / "cache")
    prepared = run("prepare_dataset/prepare_dpo_dataset.py", *prepare)
    assert prepared.returncode == 0, prepared.stderr
    assert "4 pairs" in prepared.stdout
    train = ("--model", model, "--data", tmp_path / "cache", "--output_dir", tmp_path / "out", "--max_steps", 1)
    done = run("train_scripts/train_dpo_example.py", *train)
    assert done.returncode == 0, done.stderr
    assert "DPO training completed!" in done.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([{"prompt": "x", "chosen": "y"}], "row 1: rejected missing"),
        ([{"prompt": "x", "chosen": "y", "rejected": "y"}], "same"),
    ],
)
def test_pairs_that_are_none_are_named_by_their_row(tmp_path, pairs, said):
    (tmp_path / "bad.json").write_text(json.dumps(pairs))
    done = run(
        "prepare_dataset/prepare_dpo_dataset.py", "--input_file", tmp_path / "bad.json", "--output_dir", tmp_path
    )
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.slow
def test_the_dpo_checks_pass():
    done = run("test_dpo_implementation.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 checks passed" in done.stdout


def test_the_comparison_prints_both_methods():
    done = run("examples/sft_vs_dpo_comparison.py")
    assert done.returncode == 0, done.stderr
    assert "default of dpo" in done.stdout
