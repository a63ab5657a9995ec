"""One evaluation: `python -m opensloth.training.evaluation_main RUN_DIR`.

RUN_DIR holds `run.json` (see evaluations/spec.py); all else is as for an export (export_main.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opensloth.training.program import EXIT_DONE, main, quiet_libraries, store_result

if TYPE_CHECKING:
    from opensloth.training.records import Records
    from opensloth.training.secret_values import SecretValues
    from opensloth.training.stop import Stop


def evaluate(run_dir: Path, records: Records, stop: Stop, secrets: SecretValues) -> int:
    """Makes the evaluation that `run_dir` specifies; returns the exit code."""
    from opensloth.hub import prepare_hub
    from opensloth.training.evaluations.spec import read_evaluation

    spec = read_evaluation(run_dir)
    quiet_libraries()
    prepare_hub()
    from opensloth.training.evaluations.work import EvaluationWork
    from opensloth.training.memory import apply_cap

    apply_cap(spec.memory_bytes, spec.device)
    folder, metrics = EvaluationWork(spec, records, secrets.get("model")).make()
    records.write(
        "result",
        "the evaluation is done",
        key=spec.artifact_key,
        artifacts=store_result(spec, folder, records, stop),
        metrics=metrics,
        is_model=False,
        adapter=False,
    )
    return EXIT_DONE


if __name__ == "__main__":
    main(evaluate, "evaluation", "the evaluation was done")
