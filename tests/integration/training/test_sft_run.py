"""One whole run by the command that the worker starts: records, result, card, and an adapter that plain PEFT loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.training import TrainerHost, log, make_run, records, sft_rows


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A run that ended."""
    rows = [
        *sft_rows(24),
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x" * 200}]},
    ]
    spec = make_run(tmp_path_factory.mktemp("sft"), tiny_model, rows=rows, arguments={"num_train_epochs": 4})
    with (Path(spec.run_dir) / "trainer.log").open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "opensloth.training.main", spec.run_dir],
            env={**os.environ, "OMP_NUM_THREADS": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=240,
        )
    assert done.returncode == 0, log(spec)
    return spec


def test_the_records_tell_the_run_from_loading_to_its_result(finished: RunSpec) -> None:
    kinds = [record["type"] for record in records(finished)]
    assert list(dict.fromkeys(kinds)) == ["phase", "data", "started", "metrics", "result"]
    phases = [record["phase"] for record in records(finished, "phase")]
    assert phases == ["loading_model", "preparing_data", "training", "saving"]
    times = [record["time"] for record in records(finished)]
    assert times == sorted(times)


def test_the_data_record_counts_what_became_of_the_rows(finished: RunSpec) -> None:
    (data,) = records(finished, "data")
    assert (data["rows"], data["kept"], data["dropped"], data["dropped_overlength"]) == (25, 24, 1, 1)
    assert 0 < data["packed_rows"] < 24
    assert 0 < data["trained_tokens"] < data["tokens"]


def test_the_metrics_show_the_loss_fall_and_the_speed(finished: RunSpec) -> None:
    metrics = records(finished, "metrics")
    first, last = metrics[0], metrics[-1]
    assert last["metrics"]["loss"] < first["metrics"]["loss"] - 0.5
    assert last["step"] == last["max_steps"]
    assert last["eta_s"] == 0
    assert last["tokens"] == 4 * records(finished, "data")[0]["tokens"]
    for name in ("grad_norm", "learning_rate", "tokens_per_second", "samples_per_second", "memory_peak_bytes"):
        assert last["metrics"][name] >= 0
    assert last["metrics"]["longest_step_s"] >= last["metrics"]["step_time_s"] > 0


def test_the_result_is_the_adapter_its_tokenizer_and_a_card(finished: RunSpec) -> None:
    (result,) = records(finished, "result")
    names = {artifact["name"] for artifact in result["artifacts"]}
    assert names == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    stored = Storage(finished.storage_url).verify_tree(finished.artifact_key)
    assert [vars(file) for file in stored] == result["artifacts"]
    assert result["base"] == "tiny"
    assert result["adapter"] is True


def test_no_file_of_the_result_names_a_path_of_the_server(finished: RunSpec) -> None:
    for file in _result(finished).iterdir():
        content = file.read_bytes()
        for path in (finished.model, finished.run_dir, finished.storage_url):
            assert path.encode() not in content, file.name
    assert json.loads((_result(finished) / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_the_card_says_how_the_result_came_about(finished: RunSpec) -> None:
    card = (_result(finished) / "README.md").read_text()
    assert card.startswith("---\nbase_model: tiny\n")
    for part in ("ftjob-test", finished.dataset.sha256, "supervised fine-tuning", "learning_rate: 0.01", "| loss |"):
        assert part in card


def test_plain_peft_loads_the_adapter_and_it_has_learnt(finished: RunSpec) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _result(finished)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(sft_rows(4)[3]["messages"], tokenize=False)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(finished.model)
    with torch.no_grad():
        before = base(input_ids=ids, labels=ids).loss
        after = PeftModel.from_pretrained(base, folder)(input_ids=ids, labels=ids).loss
    assert after < before - 0.5


def test_full_fine_tuning_gives_a_whole_model(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = {"fast_model_args": {"full_finetuning": True}}
    spec = make_run(tmp_path, tiny_model, "dpo", config=config, arguments={"max_steps": 3, "save_steps": 2})
    assert trainers.run(spec) == 0, log(spec)
    (result,) = records(spec, "result")
    assert result["adapter"] is False
    assert records(spec, "metrics")[0]["metrics"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    base, trained = (AutoModelForCausalLM.from_pretrained(path) for path in (tiny_model, _result(spec)))
    assert not torch.equal(base.lm_head.weight, trained.lm_head.weight)


def test_an_evaluation_is_in_the_metrics(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    spec = make_run(tmp_path, tiny_model, "dpo", arguments={"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1})
    spec = spec.model_copy(update={"eval_dataset": spec.dataset})
    (Path(spec.run_dir) / "run.json").write_text(spec.model_dump_json())
    assert trainers.run(spec) == 0, log(spec)
    evaluations = [record for record in records(spec, "metrics") if "eval_loss" in record["metrics"]]
    assert [record["step"] for record in evaluations] == [1, 2]
    assert "eval_rewards/margins" in evaluations[0]["metrics"]
    assert [record["split"] for record in records(spec, "data")] == ["train", "eval"]


def _result(spec: RunSpec) -> Path:
    path = Storage(spec.storage_url).local_path(spec.artifact_key)
    assert path is not None
    return path
