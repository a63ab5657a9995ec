"""Bare scripts of jobs: rendered as the service does it, and run where there is no OpenSloth."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensloth.script import ScriptSource, render_script
from opensloth.script_parts.data import DataFile
from opensloth.script_parts.imports import import_block
from opensloth.training.run_spec import DatasetRef, RunSpec
from tests.support.training import TrainerHost, records

Logged = dict[int, dict[str, float]]
"""What a trainer logged, by step."""


@dataclass(frozen=True)
class Script:
    """A script of `job` in `folder`, and how it is called."""

    job: RunSpec
    path: Path
    arguments: list[str]


def write_script(job: RunSpec, folder: Path, form: str | None = None, eval_form: str | None = None) -> Script:
    """The script of a run; without a form the script finds it out itself, as for a file that was deleted."""
    evaluation = job.eval_dataset
    source = ScriptSource(
        title=f'{job.job_id} """ {job.job_name}',
        opensloth_config=job.opensloth_config,
        training_args=job.training_args,
        engine=job.engine,
        device=job.device,
        base=job.base_name,
        data=DataFile(job.dataset.name, job.dataset.container, form),
        eval_data=DataFile(evaluation.name, evaluation.container, eval_form) if evaluation else None,
        adapter="adapter" if job.adapter else None,
        world_size=job.world_size,
    )
    path = folder / f"script-{Path(job.run_dir).name}.py"
    path.write_text(render_script(source))
    arguments = ["--model", job.model, "--data", job.dataset.path, "--output", str(folder / "out")]
    arguments += ["--adapter", job.adapter] if job.adapter else []
    arguments += ["--eval-data", evaluation.path] if evaluation else []
    arguments += ["--rewards-dir", job.rewards_dir] if job.rewards_dir and "--rewards-dir" in path.read_text() else []
    return Script(job, path, arguments)


def run_script(trainers: TrainerHost, script: Script) -> Logged:
    """Runs the script in a process of its own that cannot import OpenSloth; what it logged."""
    process = trainers.call(_run, str(script.path), script.arguments)
    process.join(120)
    output = Path(f"{script.path}.log").read_text()
    assert process.exitcode == 0, output
    found: Logged = {}
    for line in Path(f"{script.path}.jsonl").read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["step"], {}).update(record["logs"])
    return found


def logged(job: RunSpec) -> Logged:
    """What the job's own trainer logged."""
    found: Logged = {}
    for record in records(job, "metrics"):
        found.setdefault(record["step"], {}).update(record["metrics"])
    return found


def _run(path: str, arguments: list[str]) -> None:
    import runpy

    from transformers import Trainer

    output = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    original = Trainer.log

    def log(self: Any, logs: dict[str, float], *others: Any) -> None:
        original(self, logs, *others)
        numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        with Path(f"{path}.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.state.global_step, "logs": numbers}) + "\n")

    Trainer.log = log
    for name in [name for name in sys.modules if name.partition(".")[0] == "opensloth"]:
        sys.modules[name] = None  # type: ignore[assignment]
    os.chdir(Path(path).parent)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
    sys.stdout.flush()
    os._exit(0)


def run_source(code: str, statements: Sequence[str]) -> dict[str, Any]:
    """What a part of a script defines, run as a module of its own with those of the import statements that it uses."""
    module = types.ModuleType("a_script")
    sys.modules[module.__name__] = module  # where pydantic and dataclasses look names up
    exec(f"from __future__ import annotations\n{import_block(code, statements)}\n{code}", module.__dict__)
    return module.__dict__


def write_rows(path: Path, rows: list[dict[str, Any]], container: str, packed: str | None = None) -> DatasetRef:
    """A dataset file; `packed` is gzip or zstd."""
    if container == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        content = _text(rows, container).encode()
        path.write_bytes(_packed(content, packed))
    return DatasetRef(path=str(path), name=path.name, sha256="0" * 64, container=container)


def with_data(job: RunSpec, data: DatasetRef, evaluation: DatasetRef | None = None) -> RunSpec:
    """The same run on another file."""
    changed = job.model_copy(update={"dataset": data, "eval_dataset": evaluation})
    (Path(job.run_dir) / "run.json").write_text(changed.model_dump_json())
    return changed


def _text(rows: list[dict[str, Any]], container: str) -> str:
    if container == "json":
        return "\ufeff" + json.dumps(rows, indent=1)
    if container == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\r\n\n" for row in rows)
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow([f" {name} " for name in rows[0]])
    sheet.write("\n")
    writer.writerows(row.values() for row in rows)
    return sheet.getvalue()


def _packed(content: bytes, packed: str | None) -> bytes:
    if packed == "gzip":
        return gzip.compress(content)
    if packed == "zstd":
        import pyarrow

        return bytes(pyarrow.compress(content, "zstd", asbytes=True))
    return content
