"""Jobs, events and checkpoints of OpenSloth in OpenAI's shapes."""

from __future__ import annotations

import re
import time
from typing import Any, cast

from api.openai.common import unix, unix_or_none
from api.openai.shapes import (
    AutoFloat,
    AutoInt,
    CheckpointMetrics,
    FineTuningJob,
    FineTuningJobCheckpoint,
    FineTuningJobEvent,
    HyperparametersView,
    IntegrationView,
    JobError,
    Status,
    WandbView,
)
from api.openai.translation import GENERATIONS, MODEL, PASSES, RATE, SIZE, TRAINING_TYPES, default_rate
from opensloth.errors import FieldError, InvalidInput
from opensloth.events.records import EventView
from opensloth.jobs.results_file import named
from opensloth.jobs.spec_fields import ALLOWED
from opensloth.jobs.views import CheckpointView, JobView
from opensloth.models.names import checkpoint_model_name
from opensloth.training_arguments import TrainingArguments

STATUSES: dict[str, Status] = {
    "waiting": "queued",
    "queued": "queued",
    "starting": "running",
    "running": "running",
    "stopping": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
_LEVELS = {"info": "info", "warning": "warn", "error": "error"}
_OF_A_FILE = {"dataset_error", "dataset_not_found", "input_deleted", "reward_failed"}
_TYPES = {ours: theirs for theirs, ours in TRAINING_TYPES.items()}
_SHOWN = ("state", "reason", "phase", "attempt", "owner", "team", "devices", "kept", "retry_of", "data", "metrics")
_EVENT_ID = re.compile(r"ftevent-(?P<job>[0-9a-f]+)-(?P<seq>\d{1,15})")
_DEFAULT_SEED: int = TrainingArguments.model_fields["seed"].default


def job_of(job: JobView) -> FineTuningJob:
    """A training job as OpenAI shows it."""
    values = hyperparameters_of(job)
    is_over = job.ended_at is not None
    return FineTuningJob(
        id=job.id,
        created_at=unix(job.created_at),
        finished_at=unix_or_none(job.ended_at),
        estimated_finish=_estimated_finish(job),
        status=status_of(job),
        model=str(_at(job.spec, MODEL)),
        fine_tuned_model=job.result.model if job.result and job.state == "succeeded" else None,
        organization_id=job.team,
        training_file=job.dataset_id or str(job.spec.get("dataset")),
        validation_file=job.eval_dataset_id or job.spec.get("eval_dataset"),
        result_files=[job.result.metrics_file] if job.result and job.result.metrics_file else [],
        trained_tokens=job.progress.tokens if is_over and job.progress else None,
        error=_error(job),
        hyperparameters=values,
        method=_method(job, values),
        seed=_seed(job),
        integrations=_integrations(job),
        metadata=job.metadata or None,
        opensloth=_own(job),
    )


def status_of(job: JobView) -> Status:
    """OpenAI's word for the state of a job; one whose dataset is still being fetched validates its files."""
    fetches = job.state == "waiting" and job.dataset_id is None
    return "validating_files" if fetches else STATUSES[job.state]


def hyperparameters_of(job: JobView) -> HyperparametersView:
    """The numbers that were decided, "auto" for those that are not yet."""
    return HyperparametersView(
        n_epochs=_epochs(job), batch_size=_batch_size(job), learning_rate_multiplier=_multiplier(job)
    )


def event_of(event: EventView) -> FineTuningJobEvent:
    """An event as OpenAI shows it: metrics under its names, and ours beside them."""
    is_metrics = event.type == "metrics"
    data: dict[str, Any] = {}
    if is_metrics:
        data = {"step": event.data.get("step"), "total_steps": event.data.get("max_steps")}
        data |= named(event.data.get("metrics") or {})
    return FineTuningJobEvent(
        id=f"ftevent-{event.job_id.removeprefix('ftjob-')}-{event.seq}",
        created_at=unix(event.time),
        level=cast(Any, _LEVELS.get(event.level, "info")),
        message=_training_step(event, data) if is_metrics else event.message,
        type="metrics" if is_metrics else "message",
        data=data | {"opensloth": {"type": event.type, "attempt": event.attempt, "seq": event.seq, **event.data}},
    )


def seq_of(event_id: str, job_id: str) -> int:
    """The number of an event of this job; raises InvalidInput for what is none."""
    found = _EVENT_ID.fullmatch(event_id)
    if found is None or f"ftjob-{found['job']}" != job_id:
        message = f"the job has no event {event_id!r}"
        raise InvalidInput("the page cannot be found", fields=[FieldError("after", message, "invalid_value")])
    return int(found["seq"])


def checkpoint_of(checkpoint: CheckpointView, result: str) -> FineTuningJobCheckpoint:
    """A checkpoint as OpenAI shows it; `result` is the name of the job's model, whether or not it is there yet."""
    shown = {name for name in CheckpointMetrics.model_fields if name != "step"}
    metrics = {name: value for name, value in named(checkpoint.metrics).items() if name in shown}
    return FineTuningJobCheckpoint(
        id=checkpoint_id(checkpoint),
        created_at=unix(checkpoint.created_at),
        fine_tuning_job_id=checkpoint.job_id,
        fine_tuned_model_checkpoint=checkpoint_model_name(result, checkpoint.step),
        step_number=checkpoint.step,
        metrics=CheckpointMetrics(step=checkpoint.step, **metrics),
    )


def checkpoint_id(checkpoint: CheckpointView) -> str:
    """The id of a checkpoint in OpenAI's shape."""
    return f"ftckpt-{checkpoint.job_id.removeprefix('ftjob-')}-{checkpoint.step}"


def _training_step(event: EventView, data: dict[str, Any]) -> str:
    told = [f"{name.replace('_', ' ')}={value:.4g}" for name, value in data.items() if _is_told(name, value)]
    return f"Step {data['step']}/{data['total_steps']}: {', '.join(told)}" if told else event.message


def _is_told(name: str, value: Any) -> bool:
    return name in {"train_loss", "valid_loss", "train_mean_reward", "valid_mean_reward"} and _number(value) is not None


def _estimated_finish(job: JobView) -> int | None:
    eta_s = job.progress.eta_s if job.progress else None
    return round(time.time() + eta_s) if job.state == "running" and eta_s is not None else None


def _error(job: JobView) -> JobError | None:
    if job.error is None or job.state != "failed":
        return None
    hint = f" ({job.error.hint})" if job.error.hint else ""
    param = "training_file" if job.error.code in _OF_A_FILE else None
    return JobError(code=job.error.code, message=f"{job.error.message}{hint}", param=param)


def _method(job: JobView, values: HyperparametersView) -> dict[str, Any] | None:
    kind = _TYPES.get(_training_type(job))
    if kind is None:
        return None
    shown: dict[str, Any] = values.model_dump()
    posted = ((job.request or {}).get("method") or {}).get(kind) or {}
    if kind == "dpo":
        shown["beta"] = _number(_decided(job, "opensloth_config.dpo_args.beta")) or "auto"
    if kind != "reinforcement":
        return {"type": kind, kind: {"hyperparameters": shown}}
    if "grader" not in posted:
        return {"type": kind}  # posted with rewards that no grader of OpenAI's is
    more = {name: value for name, value in (posted.get("hyperparameters") or {}).items() if value is not None}
    return {"type": kind, kind: {"grader": posted["grader"], "hyperparameters": more | shown}}


def _integrations(job: JobView) -> list[IntegrationView]:
    asked = [dict(each) for each in job.spec.get("integrations") or []]
    return [IntegrationView(type=each.pop("type"), wandb=WandbView(**each)) for each in asked]


def _own(job: JobView) -> dict[str, Any]:
    """The fields under which OpenSloth's own were posted, and what it tells besides."""
    spec, config = job.spec, job.spec.get("opensloth_config") or {}
    loaded = {name: value for name, value in (config.get("fast_model_args") or {}).items() if name != "model_name"}
    kept = ALLOWED[""] - {"dataset", "eval_dataset", "metadata", "integrations", "opensloth_config", "name"}
    own = {name: spec[name] for name in sorted(kept & spec.keys())}
    own |= {name: value for name, value in config.items() if name != "fast_model_args"}
    if loaded:
        own["fast_model_args"] = loaded
    posted = (job.request or {}).get("model")
    alias = posted if posted is not None and posted != _at(spec, MODEL) else None
    own |= {"name": job.name, "priority": job.priority, "training_type": _training_type(job), "model_alias": alias}
    own |= {name: getattr(job, name) for name in _SHOWN}
    for name in ("progress", "queue", "result", "error"):
        part = getattr(job, name)
        own[name] = part.model_dump(mode="json") if part is not None else None
    return own


def _training_type(job: JobView) -> str:
    return str(_at(job.spec, "opensloth_config.training_type") or "sft")


def _epochs(job: JobView) -> AutoInt:
    if (_number(_decided(job, "training_args.max_steps")) or -1) > 0:
        return None
    epochs = _number(_decided(job, "training_args.num_train_epochs"))
    if epochs is None:
        return "auto"
    return int(epochs) if float(epochs).is_integer() else None


def _batch_size(job: JobView) -> AutoInt:
    at_once, passes = _number(_decided(job, SIZE)), _number(_decided(job, PASSES))
    if at_once is None or passes is None:
        return "auto"
    rows = int(at_once * passes * max(1, int(_number(_at(job.spec, "resources.gpus")) or 1)))
    if _training_type(job) != "grpo":
        return rows
    return rows // int(_number(_decided(job, "opensloth_config.grpo_args.num_generations")) or GENERATIONS)


def _seed(job: JobView) -> int:
    seed = _number(_decided(job, "training_args.seed"))
    return _DEFAULT_SEED if seed is None else int(seed)


def _multiplier(job: JobView) -> AutoFloat:
    rate = _number(_decided(job, RATE))
    return "auto" if rate is None else float(f"{rate / default_rate(_training_type(job)):.6g}")


def _decided(job: JobView, path: str) -> Any:
    """What a field was resolved to, or else set to."""
    resolved = _at(job.resolved or {}, path)
    return _at(job.spec, path) if resolved is None else resolved


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
