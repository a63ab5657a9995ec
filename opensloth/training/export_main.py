"""One export: `python -m opensloth.training.export_main RUN_DIR`.

RUN_DIR holds `run.json` (see exports/spec.py). Records, heartbeat, SIGTERM and exit codes are those of a trainer
(main.py). An export has no checkpoints: a stop leaves nothing behind, and the next attempt begins anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opensloth.training.program import EXIT_DONE, main, quiet_libraries, store_result

if TYPE_CHECKING:
    from opensloth.training.records import Records
    from opensloth.training.secret_values import SecretValues
    from opensloth.training.stop import Stop


def export(run_dir: Path, records: Records, stop: Stop, secrets: SecretValues) -> int:
    """Makes the export that `run_dir` specifies; returns the exit code."""
    from opensloth.hub import prepare_hub
    from opensloth.training.exports.hub import Push
    from opensloth.training.exports.spec import read_export

    spec = read_export(run_dir)
    quiet_libraries()
    prepare_hub()
    push = None
    if spec.push is not None:
        push = Push(spec.push, secrets.get("push") or "")
        push.make_repository()
    from opensloth.training.exports.work import ExportWork
    from opensloth.training.memory import apply_cap

    apply_cap(spec.memory_bytes, spec.device)
    work = ExportWork(spec, records, secrets.get("model"))
    folder, metrics = work.make()
    if push is not None:
        assert spec.push is not None
        records.phase("pushing", f"pushing to {spec.push.repo}")
        address = push.upload(folder, f"{spec.format} of {spec.source_name}")
        records.log(f"pushed: {address}")
    artifacts = store_result(spec, folder, records, stop)
    records.write(
        "result",
        f"{len(artifacts)} files",
        key=spec.artifact_key,
        artifacts=artifacts,
        metrics=metrics,
        base=spec.base_name,
        adapter=spec.format == "adapter",
        # A GGUF file cannot be trained on, and an adapter is registered already as its job's result.
        is_model=spec.format == "merged_16bit",
    )
    return EXIT_DONE


if __name__ == "__main__":
    main(export, "export", "the export was done")
