"""A run reports to Weights & Biases what its records say, and trains the same whatever becomes of the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any

import psutil
import pytest

from opensloth.integrations import WandbIntegration
from opensloth.training import reporting
from opensloth.training.records import Records
from opensloth.training.run_spec import EVENTS_NAME, RunSpec
from opensloth.training.secret_values import FD_VARIABLE, SecretValues, secrets_pipe
from tests.support import fake_wandb
from tests.support.jobs import wait_for
from tests.support.training import log, make_run, next_attempt, records

KEY = "key_of/wandb+0123456789"
FAKE = Path(fake_wandb.__file__).parent


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server that the fake package reports to."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("WANDB_BASE_URL", folder.as_uri())
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), str(Path.cwd())]))
    return folder


def calls(server: Path, name: str | None = None) -> list[dict[str, Any]]:
    path = server / "calls.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [call for call in found if name in (None, call["call"])]


def told(spec: RunSpec) -> list[str]:
    return [line["message"] for line in records(spec) if line["type"] == "log"]


def asking(project: str, **more: Any) -> WandbIntegration:
    return WandbIntegration(type="wandb", project=project, **more)


def train(spec: RunSpec, then: Callable[[subprocess.Popen[bytes]], None] = lambda _: None) -> int:
    """The command that the worker starts, with the key in its pipe."""
    pipe = secrets_pipe({"wandb": KEY})
    rank = {"OMP_NUM_THREADS": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", FD_VARIABLE: str(pipe)}
    with (Path(spec.run_dir) / "trainer.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "opensloth.training.main", spec.run_dir],
            env={**os.environ, **rank},
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[pipe],
            process_group=0,
        )
    os.close(pipe)
    then(process)
    return process.wait(240)


@pytest.mark.slow
def test_a_run_and_its_next_attempt_report_their_metrics_to_one_run(
    tiny_model: Path, server: Path, tmp_path: Path
) -> None:
    spec = make_run(
        tmp_path, tiny_model, arguments={"max_steps": 8}, wandb=asking("tone", entity="team", tags=["a", "b"])
    )

    def stop(process: subprocess.Popen[bytes]) -> None:
        wait_for(lambda: (Path(spec.run_dir) / EVENTS_NAME).exists() and records(spec, "metrics"), timeout=120)
        os.killpg(process.pid, SIGTERM)

    assert train(spec, stop) == 10, log(spec)
    again = next_attempt(spec, records(spec, "stopped")[0]["step"])
    assert train(again) == 0, log(again)

    first, second = calls(server, "init")
    shown = {name: first[name] for name in ("project", "entity", "name", "tags", "id", "resume", "key")}
    assert shown == {
        "project": "tone",
        "entity": "team",
        "name": spec.job_id,
        "tags": ["a", "b"],
        "id": spec.job_id,
        "resume": "allow",
        "key": KEY,
    }
    assert first["config"]["opensloth"] == {"job_id": spec.job_id, "job_name": "a test", "engine": "transformers"}
    assert first["config"]["training_args"]["max_steps"] == 8
    assert (second["id"], second["config"]) == (first["id"], first["config"])
    measured = records(spec, "metrics") + records(again, "metrics")
    logged = [call["data"] for call in calls(server, "log")]
    assert [data["train/global_step"] for data in logged] == [record["step"] for record in measured]
    losses = [record["metrics"]["loss"] for record in measured if "loss" in record["metrics"]]
    assert [data["train/loss"] for data in logged if "train/loss" in data] == losses
    ends = [(call["call"], call.get("exit_code")) for call in calls(server) if call["call"] not in ("init", "log")]
    assert [end for end in ends if end[0] != "define_metric"] == [
        ("mark_preempting", None),
        ("finish", 1),
        ("finish", 0),
    ]
    assert told(spec) == told(again) == ["Weights and Biases run: https://wandb.test/tone"]
    assert not psutil.pid_exists(first["pid"])
    for run in (spec, again):
        left = [path for path in Path(run.run_dir).rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        assert left == []


@pytest.fixture
def report(server: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Reports a run of some records, without a trainer; returns what the run is told."""

    def run(project: str, *, last: str = "result", wait: Callable[[RunSpec], Any] | None = None) -> list[str]:
        spec = make_run(tmp_path, tmp_path, wandb=asking(project))
        written = Records(Path(spec.run_dir) / EVENTS_NAME)
        process = reporting.start_report(spec, written, SecretValues({"wandb": KEY}))
        for step in (1, 2, 3):
            metrics = {"loss": float("nan") if step == 2 else 1 / step, "eval_loss": 0.5}
            written.write("metrics", "", step=step, max_steps=3, epoch=step / 3, tokens=step, metrics=metrics)
        wait_for(lambda: (wait or (lambda _: calls(server)))(spec))
        written.write(last, "")
        if process is not None:
            process.finish()
        return told(spec)

    return run


def test_metrics_have_the_names_that_transformers_reports_and_nan_is_left_out(
    report: Callable[..., list[str]], server: Path
) -> None:
    report("p", last="failure")
    first, second, _ = (call["data"] for call in calls(server, "log"))
    expected = {"train/loss", "eval/loss", "train/epoch", "train/tokens", "train/global_step", "_timestamp"}
    assert first.keys() == expected
    assert second.keys() == expected - {"train/loss"}
    assert [call["exit_code"] for call in calls(server, "finish")] == [1]


@pytest.mark.parametrize(
    ("project", "says"),
    [("unreachable", "tried again"), ("refused", "key in the secret is not good"), ("breaks", "the service is gone")],
)
def test_what_goes_wrong_is_one_warning_without_the_key(
    project: str, says: str, report: Callable[..., list[str]]
) -> None:
    def warned(spec: RunSpec) -> bool:
        return any(line["level"] == "warning" for line in records(spec))

    lines = [line for line in report(project, wait=warned) if "run: https" not in line]
    assert len(lines) == 1
    assert says in lines[0]
    assert KEY not in lines[0]


@pytest.mark.parametrize("project", ["hangs", "stuck"])
def test_a_report_that_hangs_is_waited_for_no_longer_than_it_may_take(
    project: str, report: Callable[..., list[str]], server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "FLUSH_S", 0.5)
    assert "did not reach it within" in report(project)[-1]
    assert not psutil.pid_exists(calls(server, "init")[0]["pid"])


def test_without_the_package_or_the_key_the_run_is_told_what_to_do(
    report: Callable[..., list[str]], server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden" / "wandb"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'wandb'\")")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hidden.parent), str(Path.cwd())]))
    (line,) = report("p", wait=told)
    assert "pip install 'opensloth[wandb]'" in line
    spec = make_run(tmp_path, tmp_path, name="keyless", wandb=asking("p"))
    written = Records(Path(spec.run_dir) / EVENTS_NAME)
    assert reporting.start_report(spec, written, SecretValues({})) is None
    (line,) = told(spec)
    assert "was deleted" in line
    assert calls(server) == []
