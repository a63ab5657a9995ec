"""One export: `python -m opensloth.training.export_main RUN_DIR`.

RUN_DIR holds `run.json` (see exports/spec.py). Records, heartbeat, SIGTERM and exit codes are those of a trainer
(main.py). An export has no checkpoints: a stop leaves nothing behind, and the next attempt begins anew.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from opensloth.training.secret_values import SecretValues, read_secrets
from opensloth.training.stacks import answer_with_stacks
from opensloth.training.stop import Stop
from opensloth.training.watchdog import start_watchdog

if TYPE_CHECKING:
    from opensloth.training.records import Records

EXIT_DONE = 0
EXIT_FAILED = 20


Work = Callable[[Path, "Records", Stop, SecretValues], int]
"""What is done with a run folder; returns the exit code."""


def main(work: Work | None = None, what: str = "export") -> NoReturn:
    """The command; `work` is an export's, if it is not another's."""
    stop = Stop()
    stop.install()
    start_watchdog()
    answer_with_stacks(Path(sys.argv[1]))
    secrets = read_secrets()
    secrets.guard_output()
    code = run(Path(sys.argv[1]), stop, secrets, work or _export, what)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(run_dir: Path, stop: Stop, secrets: SecretValues, work: Work, what: str) -> int:
    """Does the work that `run_dir` specifies; returns the exit code. Every exception becomes a failure record."""
    from opensloth.training.failures import describe
    from opensloth.training.memory import explained
    from opensloth.training.records import Records
    from opensloth.training.run_spec import EVENTS_NAME

    records = Records(run_dir / EVENTS_NAME, redact=secrets.redact_all)
    try:
        stop.before_leaving = lambda: records.write("stopped", f"stopped before the {what} was done", step=0)
        if stop.requested:
            stop.leave()
        return work(run_dir, records, stop, secrets)
    except Exception as error:
        logging.getLogger(__name__).exception("the %s failed", what)
        failure, capped = explained(describe(error, records.current_phase), error)
        records.write(
            "failure",
            failure.message,
            level="error",
            code=failure.code,
            message=failure.message,
            hint=failure.hint,
            detail=failure.detail,
            capped=capped,
        )
        return EXIT_FAILED


def _export(run_dir: Path, records: Records, stop: Stop, secrets: SecretValues) -> int:
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
    from opensloth.storage import Storage
    from opensloth.storage.errors import TRAINER_PATIENCE_S
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
    records.phase("saving", "saving the result")
    # From here on a stop comes too late: the work is complete.
    stop.leave_at_once = False
    files = Storage(spec.storage_url, TRAINER_PATIENCE_S).put_tree(folder, spec.artifact_key, move=True)
    records.write("result", f"{len(files)} files", **_result(spec, files, metrics))
    return EXIT_DONE


def _result(spec: Any, files: list[Any], metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "key": spec.artifact_key,
        "artifacts": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files],
        "metrics": metrics,
        "base": spec.base_name,
        "adapter": spec.format == "adapter",
        # A GGUF file cannot be trained on, and an adapter is registered already as its job's result.
        "is_model": spec.format == "merged_16bit",
    }


def quiet_libraries() -> None:
    """No telemetry and no progress bars; the log to the standard output."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)


if __name__ == "__main__":
    main()
