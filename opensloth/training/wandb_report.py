"""Reports a run to Weights & Biases: `python -m opensloth.training.wandb_report RUN_DIR`, started by rank 0.

It follows `events.jsonl` until standard input says "end" or ends, and writes there where the run is to be seen, or one
warning if it cannot be reported. The key comes over the secrets' pipe and stays in memory.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from opensloth.training.records import Records
from opensloth.training.run_spec import EVENTS_NAME, RunSpec, read_spec
from opensloth.training.secret_values import read_secrets

POLL_S = 1.0
INIT_S = 30.0
"""How long the server may take to answer at the beginning."""
RETRY_S = (30.0, 60.0, 120.0, 300.0)
"""Pauses before the next try to reach it; the last one is repeated."""
MOST_END_S = 60.0
"""How long this process may outlive the run's last record if nobody ends it."""
STEP = "train/global_step"
"""The x-axis, as transformers names it: an attempt that goes on from a checkpoint may repeat steps."""


def main() -> NoReturn:
    """The command."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a stop is for the ranks; this ends after them
    os.nice(10)
    run_dir, secrets = Path(sys.argv[1]), read_secrets()
    records = Records(run_dir / EVENTS_NAME, redact=secrets.redact_all)
    report = WandbReport(read_spec(run_dir), run_dir, secrets.get("wandb") or "", records)
    try:
        report.run()
    except Exception as error:
        report.warn(f"{type(error).__name__}: {error}")
    os._exit(0)


class WandbReport:
    """One attempt's part of the run; `ended` is set when no record is to come any more."""

    def __init__(self, spec: RunSpec, run_dir: Path, key: str, records: Records) -> None:
        self._spec, self._run_dir, self._key, self._records = spec, run_dir, key, records
        # Not called wandb: where the package is missing, a folder of its name would be taken for it.
        self._folder = run_dir / "report"
        self._warned = False
        self.ended = threading.Event()

    def run(self) -> None:
        """Send every metric as it comes; returns when the run is over and sent, or cannot be reported at all."""
        threading.Thread(target=self._wait_for_the_end, daemon=True).start()
        run = self._begin()
        if run is None:
            return
        if run.url:
            self._records.write("log", f"Weights and Biases run: {run.url}", url=run.url)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        last = None
        for record in self._follow():
            if record.get("type") == "metrics":
                run.log(logged(record))
            elif record.get("type") in ("result", "stopped", "failure"):
                last = record["type"]
        if last == "stopped":
            run.mark_preempting()
        run.finish(exit_code=0 if last == "result" else 1)

    def warn(self, why: str) -> None:
        """One warning on the job, however often it fails."""
        if not self._warned:
            self._warned = True
            message = f"metrics do not reach Weights & Biases: {why[:500]}; training goes on"
            self._records.log(message, level="warning")

    def _begin(self) -> Any:
        """The run; tried again as long as the server cannot be reached. None: there is none."""
        self._keep_to_the_run_folder()
        try:
            wandb = importlib.import_module("wandb")  # not in the lock: an extra of the worker's
        except ImportError as error:
            self.warn(f"{error}; the worker needs `pip install 'opensloth[wandb]'`")
            return None
        pauses = iter(RETRY_S)
        pause = RETRY_S[-1]
        while True:
            try:
                return self._init(wandb)
            except wandb.errors.AuthenticationError as error:
                self.warn(f"{error} (the key in the secret is not good there)")
                return None
            except wandb.errors.CommError as error:
                self.warn(f"{error} (it is tried again from time to time)")
            pause = next(pauses, pause)
            if self.ended.wait(pause):
                return None

    def _init(self, wandb: Any) -> Any:
        spec, asked = self._spec, self._spec.wandb
        assert asked is not None
        return wandb.init(
            project=asked.project,
            entity=asked.entity,
            name=asked.name or spec.job_id,
            tags=asked.tags or None,
            id=spec.job_id,
            resume="allow",
            dir=str(self._folder),
            config=config_of(spec),
            allow_val_change=True,
            settings=wandb.Settings(
                api_key=self._key,
                init_timeout=INIT_S,
                console="off",
                silent=True,
                save_code=False,
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def _keep_to_the_run_folder(self) -> None:
        """Nothing is read from or left in the home of whoever runs the worker, and no errors are reported to others."""
        self._folder.mkdir(exist_ok=True)
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
            os.environ[name] = str(self._folder / name.split("_")[1].lower())
        os.environ["WANDB_ERROR_REPORTING"] = "false"

    def _wait_for_the_end(self) -> None:
        # Read by its descriptor: a process that leaves must not find the lock of sys.stdin taken.
        os.read(0, 16)
        self.ended.set()
        if self._warned:
            os._exit(0)  # what could not be reached for the whole run is not waited for at its end
        threading.Event().wait(MOST_END_S)
        os._exit(0)

    def _follow(self) -> Iterator[dict[str, Any]]:
        """The records from the first on, as they are written, until the last."""
        rest = b""
        with (self._run_dir / EVENTS_NAME).open("rb") as file:
            while True:
                ended = self.ended.is_set()
                while chunk := file.read(1 << 20):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (json.loads(line) for line in lines if line)
                if ended:
                    return
                self.ended.wait(POLL_S)


def logged(record: dict[str, Any]) -> dict[str, float]:
    """What a record of metrics is there: `train/loss`, `eval/loss` and so on, as transformers reports them."""
    data = record["data"]
    values = {"train/epoch": data.get("epoch"), "train/tokens": data.get("tokens"), STEP: data.get("step")}
    for name, value in data["metrics"].items():
        values[f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"] = value
    return {name: value for name, value in values.items() if value is not None} | {"_timestamp": record["time"]}


def config_of(spec: RunSpec) -> dict[str, Any]:
    """What the run shows of the job: its name, what it trains and how."""
    arguments = spec.training_args.model_dump(mode="json", exclude_none=True)
    arguments = {name: value for name, value in arguments.items() if name not in ("output_dir", "report_to")}
    lora = spec.opensloth_config.lora_args
    return {
        "opensloth": {"job_id": spec.job_id, "job_name": spec.job_name, "engine": spec.engine},
        "model": spec.base_name,
        "method": spec.opensloth_config.training_type,
        "dataset": spec.dataset.name,
        "devices": spec.world_size,
        "training_args": arguments,
        "lora_args": lora.model_dump(mode="json", exclude_none=True) if lora else None,
    }


if __name__ == "__main__":
    main()
