"""From a placed job to its run folder: inputs fetched, configuration resolved, `run.json` written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opensloth.accounts.callers import HOST
from opensloth.datasets.rows import FileRow
from opensloth.devices.inventory import FoundDevice, facts
from opensloth.errors import OpenSlothError
from opensloth.jobs.attempts import Placed
from opensloth.jobs.inputs import SECTION, facts_of, resolve_for, size_of
from opensloth.jobs.spec import load_job_spec
from opensloth.models.choices import ModelChoice
from opensloth.rewards import RewardPolicy
from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.storage import StorageCorrupt
from opensloth.storage.cache import local_tree
from opensloth.training.run_spec import DatasetRef, RunSpec
from worker.compiled import compile_caches


class CannotStart(OpenSlothError):
    """The attempt cannot be started; `error_code` is the reason."""

    code = "internal_error"


def run_folder(services: Services, job_id: str, attempt: int) -> Path:
    """The scratch folder of an attempt on this host."""
    return services.settings.runs / job_id / str(attempt)


def fresh_folder(services: Services, placed: Placed) -> Path:
    """The same, empty, whatever an earlier worker left there."""
    run_dir = run_folder(services, placed.job.id, placed.attempt)
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    return run_dir


def prepare_run(services: Services, placed: Placed, devices: Sequence[FoundDevice]) -> tuple[RunSpec, dict[str, Any]]:
    """Make the run folder and its `run.json`; also returns the resolved configuration for the job.

    Raises CannotStart with a reason code where an input is gone.
    """
    job = placed.job
    run_dir = fresh_folder(services, placed)
    spec = load_job_spec(job.spec)
    with services.database.read() as session:
        config = spec.opensloth_config
        choice = services.models.choices.with_adapter(
            session, config.fast_model_args.model_name, config.pretrained_lora, SECTION, HOST
        )
        train = session.get(FileRow, job.dataset_id)
        evaluation = session.get(FileRow, job.eval_dataset_id) if job.eval_dataset_id else None
        size = size_of(session, job.dataset_id)
    if train is None or (job.eval_dataset_id and evaluation is None):
        raise CannotStart("a dataset of this job was deleted", code="input_deleted")
    resolved = resolve_for(spec, facts_of(facts(list(devices))), choice, size)
    run = RunSpec(
        job_id=job.id,
        job_name=job.name,
        attempt=placed.attempt,
        opensloth_config=resolved.opensloth_config,
        training_args=resolved.training_args,
        engine=resolved.engine,
        device=devices[0].kind,
        world_size=len(devices),
        model=model_path(services, choice),
        base_name=choice.base_id,
        adapter=str(stored_tree(services, choice.adapter_key)) if choice.adapter_key else None,
        dataset=dataset_ref(services, train, run_dir),
        eval_dataset=dataset_ref(services, evaluation, run_dir) if evaluation else None,
        run_dir=str(run_dir),
        storage_url=services.storage.url,
        checkpoint_key=f"jobs/{job.id}/checkpoints/attempt-{placed.attempt}",
        artifact_key=f"jobs/{job.id}/artifacts",
        resume_from=next(iter(placed.checkpoints), None),
        checkpoints=list(placed.checkpoints),
        checkpoint_interval_s=services.settings.checkpoint_interval_s,
        memory_bytes=placed.memory_bytes,
        cache_dir=str(services.settings.home.expanduser() / "cache" / "prepared"),
        cache_bytes=services.settings.prepared_cache_bytes,
        plugins=services.settings.plugin_modules,
        wandb=spec.wandb,
        **reward_fields(services.rewards),
    )
    (run_dir / "run.json").write_text(run.model_dump_json(indent=1))
    return run, resolved.to_json()


def reward_fields(policy: RewardPolicy) -> dict[str, Any]:
    """What a run folder's `run.json` says of this server's policy for rewards."""
    return {
        "reward_urls": list(policy.urls),
        "rewards_dir": str(policy.folder) if policy.folder else None,
        "reward_timeout_s": policy.call_timeout_s,
        "reward_python": policy.python,
    }


def device_environment(devices: Sequence[FoundDevice], slots: int, cores: int) -> dict[str, str]:
    """What tells the ranks which devices are theirs; CPU slots share the cores evenly.

    Where trainers share cores, their idle threads spin only briefly: spinning as long as usual made a step 3.4 times
    slower there. Alone on the machine it is twice as fast as sleeping, so that one slot keeps the default.
    """
    if devices[0].kind == "cuda":
        # By NVML, a look whether there is a GPU does not yet settle which ones the process sees.
        visible = ",".join(device.id for device in devices)
        return {"CUDA_VISIBLE_DEVICES": visible, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    threads = str(max(1, cores // max(1, slots)))
    shared = {"GOMP_SPINCOUNT": "10000"} if slots > 1 else {}
    return {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads, **shared}


def training_environment(
    settings: Settings, devices: Sequence[FoundDevice], slots: int, *, offline: bool
) -> dict[str, str]:
    """What the ranks of a training job get beside the worker's own; `offline` where nothing of it is on the hub."""
    return {
        **device_environment(devices, slots, os.cpu_count() or 1),
        **compile_caches(settings, os.environ),
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
    }


def model_path(services: Services, choice: ModelChoice) -> str:
    """Where a trainer finds the base: a local folder, or its hub id."""
    if choice.storage_key is None:
        return choice.hub_id or choice.base_id
    return str(stored_tree(services, choice.storage_key))


def stored_tree(services: Services, key: str) -> Path:
    """A local folder with the stored tree `key`; an object store's trees are kept in this host's cache."""
    try:
        return local_tree(services.storage, key, services.settings.home.expanduser() / "cache" / "trees")
    except StorageCorrupt as error:
        raise CannotStart(f"the model cannot be used: {error.message}", code="model_not_found") from error


def dataset_ref(services: Services, row: FileRow, run_dir: Path) -> DatasetRef:
    """A stored file as a trainer reads it: where it lies, or a copy in the run folder from an object store."""
    local = services.storage.local_path(row.storage_key)
    if local is None:
        local = run_dir / "data" / row.id
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = services.storage.get_file(row.storage_key, local)
        except FileNotFoundError:
            local.unlink(missing_ok=True)
        else:
            if found != (row.bytes, row.sha256):
                raise CannotStart(f"the dataset {row.id} came damaged from storage", code="storage_error")
    if not local.exists():
        raise CannotStart(f"the dataset {row.id} is not in storage any more", code="input_deleted")
    return DatasetRef(path=str(local), name=row.filename, sha256=row.sha256, container=row.container)
