"""The bare TRL script of a job gives the job's losses, and needs nothing of OpenSloth."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.scripts import Logged, logged, run_script, write_script
from tests.support.training import TrainerHost, dpo_rows, grpo_rows, kto_rows, log, make_run

CASES: dict[str, dict[str, Any]] = {
    "sft": {"config": {"lora_args": {"r": 4, "lora_dropout": 0.1}}},
    "sft unpacked": {"config": {"sequence_packing": False, "loss_on": "all"}},
    "sft in full": {"config": {"fast_model_args": {"full_finetuning": True}}},
    "dpo": {
        "training_type": "dpo",
        "config": {"dpo_args": {"max_prompt_length": 20, "beta": 0.3}},
        "rows": dpo_rows(7),  # the last step of an epoch has 2 pairs and 1
    },
    "dpo from an adapter": {"training_type": "dpo"},
    "kto": {"training_type": "kto", "rows": kto_rows(13), "config": {"kto_args": {"max_prompt_length": 20}}},
    "orpo": {"training_type": "orpo", "rows": dpo_rows(7), "config": {"eval_split": 0.2}},
    "grpo": {
        "training_type": "grpo",
        "rows": grpo_rows(6),
        "config": {
            "grpo_args": {
                "num_generations": 2,
                "max_completion_length": 6,
                "max_prompt_length": 40,
                "beta": 0.1,
                "reward_functions": [
                    {"name": "length", "weight": 2.0, "params": {"target": 3, "unit": "characters", "tolerance": 6}},
                    "exact_match",
                ],
            }
        },
    },
}


SLOW = ("sft unpacked", "sft in full", "dpo from an adapter")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] if c in SLOW else []) for c in CASES])
def test_the_script_gives_the_losses_of_the_job(
    case: str, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    options = dict(CASES[case])
    options["arguments"] = {"max_steps": 4, "warmup_steps": 0}
    if case == "dpo from an adapter":
        before = make_run(tmp_path, tiny_model, name="before", arguments={"max_steps": 2})
        assert trainers.run(before) == 0, log(before)
        options["adapter"] = str(Storage(before.storage_url).local_path(before.artifact_key))
    job = make_run(tmp_path, tiny_model, **options)
    assert_same(job, trainers, tmp_path)


def assert_same(
    job: RunSpec, trainers: TrainerHost, folder: Path, form: str | None = None, eval_form: str | None = None
) -> Logged:
    """Runs both; losses, gradient norms and evaluations are the same at every step."""
    assert trainers.run(job) == 0, log(job)
    expected, got = logged(job), run_script(trainers, write_script(job, folder, form, eval_form))
    compared = 0
    for step, metrics in expected.items():
        for name in ("loss", "grad_norm", "eval_loss", "reward"):
            if name in metrics:
                assert got[step][name] == pytest.approx(metrics[name], rel=1e-5, abs=1e-7), f"{name} at step {step}"
                compared += 1
    assert compared
    return expected


def test_the_script_runs_where_opensloth_is_not(tiny_model: Path, tmp_path: Path) -> None:
    job = make_run(tmp_path, tiny_model, arguments={"max_steps": 1})
    script = write_script(job, tmp_path)
    run_path = f"import runpy; runpy.run_path({str(script.path)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['opensloth'] = None; {run_path}", *script.arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "'loss'" in done.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
