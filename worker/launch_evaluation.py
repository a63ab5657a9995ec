"""From a placed evaluation to its run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opensloth.accounts.callers import HOST
from opensloth.datasets.rows import FileRow
from opensloth.datasets.serving import first_served
from opensloth.devices.inventory import FoundDevice
from opensloth.jobs.attempts import Placed
from opensloth.jobs.evaluation_spec import EvaluationSpec, load_evaluation_spec
from opensloth.jobs.evaluations import READ_AS, bind_graders, judge_of, labels_of
from opensloth.jobs.inputs import SECTION
from opensloth.jobs.rows import JobRow
from opensloth.jobs.spec import JobSpec, load_job_spec
from opensloth.models.choices import ModelChoice
from opensloth.rewards import BoundReward
from opensloth.services import Services
from opensloth.training.evaluations.spec import EvaluationRun, GraderRun
from worker.launch import CannotStart, dataset_ref, fresh_folder, model_path, reward_fields, stored_tree


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation is made of."""

    source: JobRow
    trained: JobSpec
    choice: ModelChoice
    """The result."""
    base: ModelChoice
    """What it was trained from."""
    judge: Literal["graders", "preferences"]
    rewards: list[BoundReward]
    file: FileRow
    method: str
    """By whose forms the rows of `file` are read."""
    split: bool
    """The rows are those that the job kept of its own file."""


def prepare_evaluation(
    services: Services, placed: Placed, devices: Sequence[FoundDevice]
) -> tuple[EvaluationRun, dict[str, Any]]:
    """Make the run folder and its `run.json`; also returns what the job shows as resolved.

    Raises CannotStart with a reason code where an input is gone.
    """
    job = placed.job
    run_dir = fresh_folder(services, placed)
    spec = load_evaluation_spec(job.spec)
    found = _find(services, job, spec)
    choice, base, config = found.choice, found.base, found.trained.opensloth_config
    seeds = (found.source.resolved or {}).get("training_args", {})
    seed = seeds.get("data_seed")
    run = EvaluationRun(
        job_id=job.id,
        job_name=job.name,
        attempt=placed.attempt,
        source_job_id=found.source.id,
        source_name=found.source.name,
        judge=found.judge,
        graders=[
            GraderRun(label=label, reward=reward.spec.model_dump())
            for label, reward in zip(labels_of(spec, found.rewards), found.rewards, strict=True)
        ],
        beta=config.dpo_args.beta if config.dpo_args is not None else 0.1,
        rows=spec.rows,
        max_completion_tokens=spec.max_completion_tokens,
        temperature=spec.temperature,
        seed=spec.seed,
        dataset=dataset_ref(services, found.file, run_dir),
        training_type=found.method,
        dataset_form=config.dataset_form if found.split else spec.dataset_form,
        eval_split=config.eval_split if found.split else None,
        split_seed=int(seeds.get("seed", 42) if seed is None else seed),
        device=devices[0].kind,
        model=model_path(services, choice),
        base_model=model_path(services, base) if choice.adapter_key is None else None,
        base_name=base.hub_id or base.base_id,
        adapter=str(stored_tree(services, choice.adapter_key)) if choice.adapter_key else None,
        memory_bytes=placed.memory_bytes,
        run_dir=str(run_dir),
        storage_url=services.storage.url,
        artifact_key=f"jobs/{job.id}/artifacts",
        **reward_fields(services.rewards),
    )
    (run_dir / "run.json").write_text(run.model_dump_json(indent=1))
    dataset = {"dataset": found.file.id, "read_as": found.method}
    return run, {"judge": found.judge, "base": run.base_name, "device": run.device, **dataset}


def _find(services: Services, job: JobRow, spec: EvaluationSpec) -> _Inputs:
    with services.database.read() as session:
        source = session.get(JobRow, job.export_of or "")
        file = session.get(FileRow, job.dataset_id or "")
        if source is None or file is None:
            raise CannotStart(f"the job {job.export_of} or the rows for it were deleted", code="input_deleted")
        trained = load_job_spec(source.spec)
        config = trained.opensloth_config
        choice = services.models.choices.of(session, source.id, "job", HOST)
        base = services.models.choices.with_adapter(
            session, config.fast_model_args.model_name, config.pretrained_lora, SECTION, HOST
        )
        judge = judge_of(spec, trained)
        split = spec.dataset is None and source.eval_dataset_id is None
        wanted = (config.training_type,) if split else READ_AS[judge]
        method = first_served(session, file.id, wanted, HOST) or wanted[0]
    rewards = bind_graders(spec, trained, services.rewards) if judge == "graders" else []
    return _Inputs(source, trained, choice, base, judge, rewards, file, method, split)
