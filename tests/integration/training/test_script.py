"""The bare TRL script of a job gives the job's losses, and needs nothing of OpenSloth."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opensloth.script import ScriptSource, render_script
from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.training import TrainerHost, curve, dpo_rows, grpo_rows, kto_rows, log, make_run

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
    assert trainers.run(job) == 0, log(job)

    got = _losses_of_script(job, tmp_path)
    expected = curve(job)
    assert got.keys() == expected.keys()
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=1e-5), f"step {step}"


def test_the_script_runs_where_opensloth_is_not(tiny_model: Path, tmp_path: Path) -> None:
    job = make_run(tmp_path, tiny_model, arguments={"max_steps": 1})
    script = _write(job, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['opensloth'] = None; {_run_path(script)}", *_options(job)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "'loss'" in done.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def _losses_of_script(job: RunSpec, folder: Path) -> dict[int, tuple[float, float]]:
    script = _write(job, folder)
    module = runpy.run_path(str(script))
    seen: dict[int, tuple[float, float]] = {}
    names = {"sft": "SFTTrainer", "dpo": "PairTrainer", "grpo": "RowTrainer"}
    trainer_class = module[names.get(job.opensloth_config.training_type, "WholeStepTrainer")]

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            seen[self.state.global_step] = (logs["loss"], logs["grad_norm"])

    arguments = sys.argv
    original = trainer_class.log
    trainer_class.log = log
    sys.argv = [str(script), *_options(job, folder)]
    try:
        module["main"]()
    finally:
        sys.argv = arguments
        trainer_class.log = original
    return seen


def _write(job: RunSpec, folder: Path) -> Path:
    source = ScriptSource(
        title=f'{job.job_id} """ {job.job_name}',
        opensloth_config=job.opensloth_config,
        training_args=job.training_args,
        engine=job.engine,
        device=job.device,
        base=job.base_name,
        data=job.dataset.name,
        adapter="adapter" if job.adapter else None,
    )
    script = folder / "script.py"
    script.write_text(render_script(source))
    return script


def _options(job: RunSpec, folder: Path | None = None) -> list[str]:
    options = ["--model", job.model, "--data", job.dataset.path, "--output", str((folder or Path()) / "out")]
    return [*options, "--adapter", job.adapter] if job.adapter else options


def _run_path(script: Path) -> str:
    return f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
