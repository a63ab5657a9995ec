"""Every method teaches: held out data is better after training than before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import ROWS, TrainerHost, log, make_run, records

EXAMPLES = Path(__file__).parents[3] / "examples" / "datasets"
REWARD = """
def reward(completions, rows):
    '''The share of letters of the alphabet's first half.'''
    return [sum(letter < "n" for letter in text) / max(len(text), 1) for text in completions]
"""


@pytest.mark.slow
def test_kto_and_orpo_learn_the_preference(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    for method in ("kto", "orpo"):
        before, after = _before_and_after(tmp_path, tiny_model, trainers, method, ROWS[method](36), max_steps=12)
        assert after["eval_loss"] < before["eval_loss"] - 0.05, method
        assert after["eval_rewards/margins"] > before["eval_rewards/margins"] + 0.05, method


def test_grpo_learns_what_is_rewarded(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    folder = tmp_path / "rewards"
    folder.mkdir()
    (folder / "early.py").write_text(REWARD)
    spec = make_run(
        tmp_path,
        tiny_model,
        "grpo",
        rows=ROWS["grpo"](4),
        config={
            "grpo_args": {"num_generations": 8, "max_completion_length": 6, "reward_functions": ["file:early"]},
            "lora_args": {"r": 8},
        },
        arguments={
            "per_device_train_batch_size": 32,
            "gradient_accumulation_steps": 1,
            "max_steps": 30,
            "learning_rate": 3e-2,
        },
        rewards_dir=str(folder),
    )
    assert trainers.run(spec) == 0, log(spec)
    rewards = [record["metrics"]["reward"] for record in records(spec, "metrics")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "orpo"])
def test_a_real_model_learns(method: str, smollm2: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    data, gains, arguments = REAL[method]
    rows, held_out = (_rows(EXAMPLES / f"{data}{part}.jsonl", method) for part in ("", "_eval"))
    before, after = _before_and_after(
        tmp_path, smollm2, trainers, method, rows, held_out=held_out[:4], gradient_accumulation_steps=1, **arguments
    )
    for name, gain in gains.items():
        assert (after[name] - before[name]) / gain >= 1, (name, before[name], after[name])


# What each metric must gain (or, below 0, lose) between the evaluations before the first step and after the last:
# less than half of what was measured.
REAL: dict[str, tuple[str, dict[str, float], dict[str, Any]]] = {
    "sft": ("support_preferences", {"eval_loss": -0.3}, {"max_steps": 12, "learning_rate": 1e-3}),
    "dpo": (
        "support_preferences",
        {"eval_loss": -0.1, "eval_rewards/margins": 0.2, "eval_rewards/accuracies": 0.5},
        {"max_steps": 6, "learning_rate": 3e-4},
    ),
    "kto": (
        "support_feedback",
        {"eval_loss": -0.02, "eval_rewards/margins": 0.1},
        {"max_steps": 6, "learning_rate": 3e-4},
    ),
    "orpo": (
        "support_preferences",
        {"eval_nll_loss": -0.3, "eval_log_odds_chosen": 0.1},
        {"max_steps": 12, "learning_rate": 1e-3},
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_model_learns_what_is_rewarded(smollm2: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    brief = {"name": "length", "params": {"unit": "words", "max": 4, "tolerance": 20}}
    before, after = _before_and_after(
        tmp_path,
        smollm2,
        trainers,
        "grpo",
        _rows(EXAMPLES / "till_sums.jsonl", "grpo"),
        held_out=_rows(EXAMPLES / "till_sums_eval.jsonl", "grpo"),
        config={"grpo_args": {"num_generations": 4, "max_completion_length": 24, "reward_functions": [brief]}},
        max_steps=20,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        per_device_eval_batch_size=16,
        gradient_accumulation_steps=1,
    )
    assert after["eval_reward"] > before["eval_reward"] + 0.1


def _before_and_after(
    folder: Path,
    model: Path,
    trainers: TrainerHost,
    method: str,
    rows: list[dict[str, Any]],
    *,
    held_out: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    **arguments: Any,
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of the evaluations before the first step and after the last."""
    config = (
        {"lora_args": {"r": 8}, "sequence_packing": False} | (config or {}) | ({} if held_out else {"eval_split": 0.25})
    )
    config["fast_model_args"] = {"max_seq_length": 512}
    steps = arguments["max_steps"]
    arguments = {"eval_strategy": "steps", "eval_steps": steps, "eval_on_start": True, "warmup_steps": 1} | arguments
    spec = make_run(folder, model, method, name=method, rows=rows, config=config, arguments=arguments)
    if held_out is not None:
        path = folder / f"{method}-eval.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in held_out))
        reference = spec.dataset.model_copy(update={"path": str(path), "sha256": "0" * 64})
        spec = spec.model_copy(update={"eval_dataset": reference})
        (Path(spec.run_dir) / "run.json").write_text(spec.model_dump_json())
    assert trainers.run(spec, timeout_s=1500) == 0, log(spec)
    found = [record["metrics"] for record in records(spec, "metrics")]
    evaluations = [metrics for metrics in found if any(name.startswith("eval_") for name in metrics)]
    return evaluations[0], evaluations[-1]


def _rows(file: Path, method: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if method == "sft":
        return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    return rows
