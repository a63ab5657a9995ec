"""From a placed export to its run folder, and the secrets that its process is told."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opensloth.accounts.callers import HOST
from opensloth.accounts.secrets import SecretUnreadable
from opensloth.devices.inventory import FoundDevice
from opensloth.errors import NotFound
from opensloth.integrations import WANDB_SECRET
from opensloth.jobs.attempts import Placed
from opensloth.jobs.export_spec import load_export_spec
from opensloth.jobs.rows import JobRow
from opensloth.jobs.spec import load_job_spec
from opensloth.services import Services
from opensloth.training.exports.spec import ExportRun, PushTarget
from worker.launch import CannotStart, fresh_folder, model_path, stored_tree


def prepare_export(
    services: Services, placed: Placed, devices: Sequence[FoundDevice]
) -> tuple[ExportRun, dict[str, Any]]:
    """Make the run folder and its `run.json`; also returns what the job shows as resolved.

    Raises CannotStart with a reason code where an input is gone.
    """
    job = placed.job
    run_dir = fresh_folder(services, placed)
    spec = load_export_spec(job.spec)
    source_id = job.export_of or ""
    with services.database.read() as session:
        source = session.get(JobRow, source_id)
        choice = services.models.choices.of(session, source_id, "job", HOST)
    if source is None:
        raise CannotStart(f"the job {source_id} was deleted", code="input_deleted")
    base = choice.base_id
    if choice.adapter_key is None:
        # A model that was trained in full is its own base; people know it by what it was trained from.
        base = services.models.get(source_id, HOST).base or base
    run = ExportRun(
        job_id=job.id,
        job_name=job.name,
        attempt=placed.attempt,
        source_job_id=source_id,
        source_name=source.name,
        format=spec.format,
        quantization=spec.quantization,
        device=devices[0].kind,
        model=model_path(services, choice),
        base_name=choice.hub_id or base,
        adapter=str(stored_tree(services, choice.adapter_key)) if choice.adapter_key else None,
        memory_bytes=placed.memory_bytes,
        push=PushTarget(repo=spec.push_to_hub.repo, private=spec.push_to_hub.private) if spec.push_to_hub else None,
        run_dir=str(run_dir),
        storage_url=services.storage.url,
        artifact_key=f"jobs/{job.id}/artifacts",
    )
    (run_dir / "run.json").write_text(run.model_dump_json(indent=1))
    shown = {"format": run.format, "quantization": run.quantization, "base": run.base_name, "device": run.device}
    return run, shown


def secrets_of(services: Services, job: JobRow, model: str) -> dict[str, str]:
    """What a job's process is told, by what it is for; raises NotFound where a secret was deleted since.

    `model` is its base, a folder here or a hub id; for the latter it gets the token that its job names, an export or an
    evaluation that of the job which it is made of, if both are of one owner.
    """
    names: dict[str, str | None] = {}
    trained = job
    if job.kind == "export":
        spec = load_export_spec(job.spec)
        names["push"] = spec.push_to_hub.secret if spec.push_to_hub else None
    if job.kind in ("export", "evaluation"):
        with services.database.read() as session:
            trained = session.get_one(JobRow, job.export_of)
    if trained.owner == job.owner and not Path(model).is_absolute():
        names["model"] = load_job_spec(trained.spec).secrets.hub
    values = {use: services.secrets.value(job.owner, name) for use, name in names.items() if name is not None}
    if job.kind == "training" and (posted := load_job_spec(job.spec)).wandb is not None:
        # A report is no reason for a job to fail: without its key the trainer says so and goes on.
        with contextlib.suppress(NotFound, SecretUnreadable):
            values["wandb"] = services.secrets.value(job.owner, posted.secrets.wandb or WANDB_SECRET)
    return values
