"""A stored job as a bare TRL script: what its resolved configuration and its inputs are called there."""

from __future__ import annotations

from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.database import Database
from opensloth.datasets.report import CHECK_VERSION, OLDEST_CHECK, FileCheck
from opensloth.datasets.rows import FileCheckRow, FileRow
from opensloth.errors import Conflict, InvalidInput
from opensloth.jobs.inputs import SECTION
from opensloth.jobs.spec import load_job_spec
from opensloth.jobs.stored import found_job
from opensloth.models.choices import ModelChoice
from opensloth.models.registry import ModelRegistry
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.script import ScriptSource, render_script
from opensloth.script_parts.data import DataFile
from opensloth.script_parts.methods import METHODS


def script_of(database: Database, models: ModelRegistry, job_id: str, caller: Caller) -> str:
    """The script's text. Raises NotFound, and Conflict as long as it is not decided where and how the job trains."""
    with database.read() as session:
        job = found_job(session, job_id, caller)
        if job.kind == "chat":
            raise Conflict("a chat engine trains nothing", code="no_script", hint="ask for the script of a training")
        if job.kind == "command":
            raise Conflict("a command trains nothing", code="no_script", hint="its spec has the command")
        if job.kind == "evaluation":
            hint = f"ask for the script of {job.export_of}"
            raise Conflict("an evaluation trains nothing", code="no_script", hint=hint)
        if job.kind == "export":
            raise Conflict("an export trains nothing", code="no_script", hint=f"ask for the script of {job.export_of}")
        if job.resolved is None:
            raise Conflict(
                "the job is not resolved yet", code="not_resolved", hint="ask again once a worker has started it"
            )
        if job.dataset_id is None:
            raise Conflict(
                f"the dataset {job.spec.get('dataset')} was not fetched from the hub",
                code="not_resolved",
                hint="ask again once the job has its dataset_id",
            )
        config = OpenSlothConfig.model_validate(job.resolved["opensloth_config"])
        if config.training_type not in METHODS:
            raise Conflict(
                f"the method {config.training_type!r} comes from a plugin, of which there is no script",
                code="no_script",
                hint="the plugin's own code is what trains",
            )
        choice = _choice(session, models, job.model_id, config.pretrained_lora, caller)
        data = _file(session, job.dataset_id or "", config)
        evaluation = _file(session, job.eval_dataset_id, config) if job.eval_dataset_id else None
    source = ScriptSource(
        title=f"{job.id} {job.name}".strip(),
        opensloth_config=config,
        training_args=TrainingArguments.model_validate(job.resolved["training_args"]),
        engine=job.resolved["engine"],
        device=job.resolved["device"],
        base=choice.hub_id or choice.base_id,
        adapter="adapter" if choice.adapter_key else None,
        data=data,
        eval_data=evaluation,
        world_size=job.device_count,
        wandb=load_job_spec(job.spec).wandb,
    )
    return render_script(source)


def _choice(session: Session, models: ModelRegistry, name: str, adapter: str | None, caller: Caller) -> ModelChoice:
    try:
        return models.choices.with_adapter(session, name, adapter, SECTION, caller)
    except InvalidInput:
        # The model was deleted since; the script names it all the same.
        return ModelChoice(base_id=name)


def _file(session: Session, file_id: str, config: OpenSlothConfig) -> DataFile:
    """Name, container and form of a dataset; of one that was deleted since, its id."""
    row = session.get(FileRow, file_id)
    if row is None:
        return DataFile(f"{file_id}.jsonl", form=config.dataset_form)
    return DataFile(row.filename, row.container, config.dataset_form or _checked_form(session, row, config))


def _checked_form(session: Session, row: FileRow, config: OpenSlothConfig) -> str | None:
    """The form in which the check of the file found it to serve the method, as training takes it; None if unknown."""
    found = session.get(FileCheckRow, row.sha256)
    if found is None or not OLDEST_CHECK <= found.version <= CHECK_VERSION:
        return None
    method = FileCheck.model_validate(found.check).methods.get(config.training_type)
    return method.form if method else None
