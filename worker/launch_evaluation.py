"""From a placed evaluation to its run folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from opensloth.accounts.callers import HOST
from opensloth.datasets.rows import FileRow
from opensloth.datasets.serving import first_served
from opensloth.devices.inventory import FoundDevice
from opensloth.jobs.attempts import Placed
from opensloth.jobs.evaluation_spec import load_evaluation_spec
from opensloth.jobs.evaluations import READ_AS, bind_graders, judge_of, labels_of
from opensloth.jobs.inputs import SECTION
from opensloth.jobs.rows import JobRow
from opensloth.jobs.spec import load_job_spec
from opensloth.services import Services
from opensloth.training.evaluations.spec import EvaluationRun, GraderRun
from worker.launch import CannotStart, dataset_ref, model_path, run_folder, stored_tree


def prepare_evaluation(
    services: Services, placed: Placed, devices: Sequence[FoundDevice]
) -> tuple[EvaluationRun, dict[str, Any]]:
    """Make the run folder and its `run.json`; also returns what the job shows as resolved.

    Raises CannotStart with a reason code where an input is gone.
    """
    job = placed.job
    run_dir = run_folder(services, job.id, placed.attempt)
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    spec, source_id = load_evaluation_spec(job.spec), job.export_of or ""
    with services.database.read() as session:
        source = session.get(JobRow, source_id)
        file = session.get(FileRow, job.dataset_id) if job.dataset_id else None
        if source is None or file is None:
            raise CannotStart(f"the job {source_id} or the rows for it were deleted", code="input_deleted")
        trained = load_job_spec(source.spec)
        config = trained.opensloth_config
        choice = services.models.choices.of(session, source_id, "job", HOST)
        base = services.models.choices.with_adapter(
            session, config.fast_model_args.model_name, config.pretrained_lora, SECTION, HOST
        )
        judge = judge_of(spec, trained)
        split = spec.dataset is None and source.eval_dataset_id is None
        wanted = (config.training_type,) if split else READ_AS[judge]
        method = first_served(session, file.id, wanted, HOST) or wanted[0]
    rewards = bind_graders(spec, trained, services.rewards) if judge == "graders" else []
    seeds = (source.resolved or {}).get("training_args", {})
    seed = seeds.get("data_seed")
    run = EvaluationRun(
        job_id=job.id,
        job_name=job.name,
        attempt=placed.attempt,
        source_job_id=source_id,
        source_name=source.name,
        judge=judge,
        graders=[
            GraderRun(label=label, reward=reward.spec.model_dump())
            for label, reward in zip(labels_of(spec, rewards), rewards, strict=True)
        ],
        beta=config.dpo_args.beta if config.dpo_args is not None else 0.1,
        rows=spec.rows,
        max_completion_tokens=spec.max_completion_tokens,
        temperature=spec.temperature,
        seed=spec.seed,
        dataset=dataset_ref(services, file, run_dir),
        training_type=method,
        dataset_form=config.dataset_form if split else spec.dataset_form,
        eval_split=config.eval_split if split else None,
        split_seed=int(seeds.get("seed", 42) if seed is None else seed),
        device=devices[0].kind,
        model=model_path(services, choice),
        base_model=model_path(services, base) if choice.adapter_key is None else None,
        base_name=base.hub_id or base.base_id,
        adapter=str(stored_tree(services, choice.adapter_key)) if choice.adapter_key else None,
        memory_bytes=placed.memory_bytes,
        reward_urls=list(services.rewards.urls),
        rewards_dir=str(services.rewards.folder) if services.rewards.folder else None,
        reward_timeout_s=services.rewards.call_timeout_s,
        reward_python=services.rewards.python,
        run_dir=str(run_dir),
        storage_url=services.storage.url,
        artifact_key=f"jobs/{job.id}/artifacts",
    )
    (run_dir / "run.json").write_text(run.model_dump_json(indent=1))
    shown = {"judge": judge, "base": run.base_name, "device": run.device, "dataset": file.id, "read_as": method}
    return run, shown
