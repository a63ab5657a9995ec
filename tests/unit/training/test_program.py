"""What every program with a run folder does around its work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opensloth.storage import Storage
from opensloth.storage.errors import TRAINER_PATIENCE_S
from opensloth.training.evaluations.spec import EvaluationRun
from opensloth.training.program import EXIT_FAILED, run, store_result
from opensloth.training.records import Records
from opensloth.training.secret_values import SecretValues
from opensloth.training.stop import Stop


def told(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def test_whatever_goes_wrong_is_a_failure_with_a_code_and_without_secrets(tmp_path: Path) -> None:
    def work(run_dir: Path, records: Records, stop: Stop, secrets: SecretValues) -> int:
        raise OSError(28, "No space left on device for hf_secret")

    secrets = SecretValues({"push": "hf_secret"})
    assert run(tmp_path, Stop(), secrets, work, "export", "the export was done") == EXIT_FAILED
    (record,) = told(tmp_path)
    assert (record["type"], record["data"]["code"], record["data"]["capped"]) == ("failure", "storage_error", False)
    assert "hf_secret" not in json.dumps(record)


def test_a_result_is_stored_with_a_trainers_patience_and_a_stop_comes_too_late(tmp_path: Path, monkeypatch) -> None:
    patience, real = [], Storage.__init__

    def opened(self: Storage, url: str, patience_s: float = 0.0) -> None:
        patience.append(patience_s)
        real(self, url, patience_s)

    monkeypatch.setattr(Storage, "__init__", opened)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "summary.json").write_text("{}")
    spec = EvaluationRun.model_construct(storage_url=str(tmp_path / "storage"), artifact_key="jobs/j/artifacts")
    stop, records = Stop(), Records(tmp_path / "events.jsonl")
    (file,) = store_result(spec, tmp_path / "made", records, stop)
    assert (file["name"], file["bytes"], patience) == ("summary.json", 2, [TRAINER_PATIENCE_S])
    assert not stop.leave_at_once
