"""What every program with a run folder does around its work: stop, heartbeat, secrets, records, exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from opensloth.training.secret_values import SecretValues, read_secrets
from opensloth.training.stacks import answer_with_stacks
from opensloth.training.stop import Stop
from opensloth.training.watchdog import start_watchdog

if TYPE_CHECKING:
    from opensloth.training.evaluations.spec import EvaluationRun
    from opensloth.training.exports.spec import ExportRun
    from opensloth.training.records import Records

EXIT_DONE = 0
EXIT_FAILED = 20

Work = Callable[[Path, "Records", Stop, SecretValues], int]
"""What is done with a run folder; returns the exit code."""


def main(work: Work, what: str, aim: str) -> NoReturn:
    """The command of a program; a log says that `what` failed, a record that it was stopped before `aim`."""
    run_dir, stop, secrets = enter()
    leave(run(run_dir, stop, secrets, work, what, aim))


def enter() -> tuple[Path, Stop, SecretValues]:
    """Take up the run folder that the command line names, and from now on answer to the worker."""
    run_dir, stop = Path(sys.argv[1]), Stop()
    stop.install()
    start_watchdog()
    answer_with_stacks(run_dir)
    secrets = read_secrets()
    secrets.guard_output()
    return run_dir, stop, secrets


def leave(code: int) -> NoReturn:
    """Ends the process without waiting for the threads of libraries."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(run_dir: Path, stop: Stop, secrets: SecretValues, work: Work, what: str, aim: str) -> int:
    """Does the work that `run_dir` specifies; returns the exit code. Every exception becomes a failure record."""
    from opensloth.training.failures import describe
    from opensloth.training.memory import explained
    from opensloth.training.records import Records
    from opensloth.training.run_spec import EVENTS_NAME

    records = Records(run_dir / EVENTS_NAME, redact=secrets.redact_all)
    try:
        stop.before_leaving = lambda: records.write("stopped", f"stopped before {aim}", step=0)
        if stop.requested:
            stop.leave()
        return work(run_dir, records, stop, secrets)
    except Exception as error:
        logging.getLogger(__name__).exception("the %s failed", what)
        failure, capped = explained(describe(error, records.current_phase), error)
        records.write("failure", failure.message, level="error", **asdict(failure), capped=capped)
        return EXIT_FAILED


def quiet_libraries() -> None:
    """No telemetry and no progress bars; the log to the standard output."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)


def store_result(spec: ExportRun | EvaluationRun, folder: Path, records: Records, stop: Stop) -> list[dict[str, Any]]:
    """Keeps `folder` as what the job has made; returns its files as the record of the result lists them.

    From here on a stop comes too late: the work is complete.
    """
    from opensloth.storage import Storage
    from opensloth.storage.errors import TRAINER_PATIENCE_S

    records.phase("saving", "saving the result")
    stop.leave_at_once = False
    files = Storage(spec.storage_url, TRAINER_PATIENCE_S).put_tree(folder, spec.artifact_key, move=True)
    return [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
