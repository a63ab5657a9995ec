"""One rank of a training job: `python -m opensloth.training.main RUN_DIR`.

RUN_DIR holds `run.json` (see run_spec.py); records go to `events.jsonl` there, checkpoints and the result to the
storage. Ends with 0 when the result is written, 10 when it was stopped, 20 when it failed (the reason is in the
records) and 75 when its worker is gone.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from opensloth.errors import Unavailable
from opensloth.training.program import EXIT_DONE, EXIT_FAILED, enter, leave
from opensloth.training.secret_values import SecretValues
from opensloth.training.stop import EXIT_STOPPED, Stop

if TYPE_CHECKING:
    from opensloth.init_modules import Rank
    from opensloth.training.callbacks import RunCallback
    from opensloth.training.records import Records
    from opensloth.training.run_spec import RunSpec


def main() -> NoReturn:
    """The command."""
    leave(run(*enter()))


def warm_up(engine: str) -> None:
    """The slow imports of every job of `engine`, which know nothing of the job."""
    from opensloth.init_modules import import_engine

    import_engine(engine)
    if engine == "unsloth":
        import torch._inductor.compile_fx  # noqa: F401
    else:
        # With Unsloth these come after the model, as it may change what they are made of.
        import opensloth.training.callbacks
        import opensloth.training.methods.dpo
        import opensloth.training.methods.grpo
        import opensloth.training.methods.kto
        import opensloth.training.methods.orpo
        import opensloth.training.methods.sft
    import opensloth.devices.nvml
    import opensloth.plugins
    import opensloth.storage
    import opensloth.trainer_factory
    import opensloth.training.checkpoints
    import opensloth.training.failures
    import opensloth.training.memory
    import opensloth.training.results  # noqa: F401


def run(run_dir: Path, stop: Stop, secrets: SecretValues | None = None) -> int:
    """Trains what `run_dir` specifies; returns the exit code. Every exception becomes a failure record."""
    from opensloth.init_modules import rank_from_environment
    from opensloth.training.failures import describe, first_to_fail
    from opensloth.training.memory import explained
    from opensloth.training.records import Records
    from opensloth.training.reporting import start_report
    from opensloth.training.run_spec import EVENTS_NAME, read_spec

    rank = rank_from_environment()
    secrets = secrets or SecretValues({})
    records = Records(run_dir / EVENTS_NAME, only_failures=not rank.is_main, redact=secrets.redact_all)
    report = None
    try:
        spec = read_spec(run_dir)
        stop.before_leaving = lambda: _say_stopped(records, spec.resumed_step, spec)
        if stop.requested:
            stop.leave()
        report = start_report(spec, records, secrets) if rank.is_main else None
        return _train(spec, rank, records, stop, secrets)
    except Exception as error:
        logging.getLogger(__name__).exception("the run failed")
        if first_to_fail(run_dir):
            failure, capped = explained(describe(error, records.current_phase), error)
            if failure.code == "storage_error":
                # What it could not save whole may have taken the very room that it needs to say so.
                shutil.rmtree(run_dir / "output", ignore_errors=True)
            told = {**asdict(failure), "capped": capped, "local_rank": rank.local}
            records.write("failure", failure.message, level="error", **told)
        return EXIT_FAILED
    finally:
        if report is not None:
            report.finish(stopped=stop.requested)


def _train(spec: RunSpec, rank: Rank, records: Records, stop: Stop, secrets: SecretValues) -> int:
    _quiet_libraries(spec, records)
    records.phase("loading_model", f"loading {spec.base_name}")
    from opensloth.init_modules import import_engine, init_process_group, load_resolved, resolve_here
    from opensloth.plugins import load_plugins
    from opensloth.training.memory import apply_cap

    # Before the process group: imported within one, Unsloth would have the ranks wait for each other.
    import_engine(spec.engine)
    records.mark("imports")
    load_plugins(spec.plugins)
    store = init_process_group(rank, Path(spec.run_dir) / "rendezvous", spec.device)
    apply_cap(spec.memory_bytes, spec.device, spec.world_size)
    config, arguments = _local_config(spec, secrets.get("model")), _local_arguments(spec)
    resolved = resolve_here(config, arguments, has_eval_dataset=spec.eval_dataset is not None)
    model, tokenizer = load_resolved(resolved)
    records.mark("model")

    records.phase("preparing_data", "preparing the data")
    from opensloth.trainer_factory import create_trainer_by_type

    trainer = create_trainer_by_type(
        model, tokenizer, _datasets(spec), config, arguments, reward_policy=_reward_policy(spec)
    )
    for counts in trainer.data_counts:
        records.write("data", counts.sentence(), **counts.to_dict())

    from opensloth.storage import Storage
    from opensloth.storage.errors import TRAINER_PATIENCE_S
    from opensloth.training.callbacks import RunCallback
    from opensloth.training.checkpoints import Checkpoints, Progress, read_progress, trainer_state
    from opensloth.training.pulse import SAVING

    storage = Storage(spec.storage_url, TRAINER_PATIENCE_S)
    checkpoints = Checkpoints(spec, storage)
    resume = _fetch_checkpoint(checkpoints, spec, records, rank, store)
    progress = read_progress(resume) if resume else Progress()
    callback = RunCallback(trainer, spec, checkpoints, records, stop, progress)
    trainer.add_callback(callback)

    records.mark("data_and_trainer")
    stop.agree_to_train(store, rank.index, rank.count)
    records.phase("training", "training")
    state = trainer_state(resume) if resume else None
    if state is not None and (state["global_step"] >= state["max_steps"] or _stopped_early(config, progress)):
        trainer.load_finished(str(resume))  # killed between its last checkpoint and its result
    else:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.stopped and trainer.state.global_step < trainer.state.max_steps:
        _say_stopped(records, trainer.state.global_step, spec)
        return EXIT_STOPPED

    records.phase("saving", "saving the result")
    if rank.is_main:
        callback.pulse.beat(SAVING)
    weights = trainer.whole_weights()
    if weights is not None:
        _leave_together(rank, store)
    if rank.is_main:
        _save(trainer, tokenizer, spec, storage, records, callback, weights)
    return EXIT_DONE


def _save(
    trainer: Any,
    tokenizer: Any,
    spec: RunSpec,
    storage: Any,
    records: Records,
    callback: RunCallback,
    weights: dict[str, Any] | None,
) -> None:
    from opensloth.training.results import is_adapter, save_result

    metrics = {**callback.latest, "tokens": callback.progress.tokens, "samples": callback.progress.samples}
    files = save_result(trainer, tokenizer, spec, storage, metrics, weights)
    records.write(
        "result",
        f"{len(files)} files",
        key=spec.artifact_key,
        artifacts=[{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files],
        metrics=metrics,
        base=spec.base_name,
        adapter=is_adapter(trainer.accelerator.unwrap_model(trainer.model)),
    )


def _leave_together(rank: Rank, store: Any) -> None:
    """Rank 0 has all: one that left before would break the exchange off."""
    if rank.is_main:
        store.set("gathered", "")
    else:
        store.get("gathered")


def _say_stopped(records: Records, step: int, spec: RunSpec) -> None:
    records.write("stopped", f"stopped after step {step}", step=step, complete=False)


def _quiet_libraries(spec: RunSpec, records: Records) -> None:
    """What libraries say goes to the log, without progress bars; our own warnings to the job's events as well."""
    if os.path.isdir(spec.model):
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    level = spec.opensloth_config.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)

    class ToRecords(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.log(record.getMessage(), level="warning")

    forward = ToRecords(logging.WARNING)
    forward.addFilter(lambda record: record.levelno == logging.WARNING)
    logging.getLogger("opensloth").addHandler(forward)


def _local_config(spec: RunSpec, token: str | None) -> Any:
    """The job's config with this host's paths; a base that needs a token is fetched here: no library gets the token."""
    config = spec.opensloth_config.model_copy(deep=True)
    config.fast_model_args.model_name = spec.model
    if token is not None and not os.path.isabs(spec.model):
        from opensloth.models.acquire import fetch_model

        config.fast_model_args.model_name = str(fetch_model(spec.model, token, None))
    if spec.base_revision and not os.path.isdir(spec.model):
        config.fast_model_args.revision = spec.base_revision  # type: ignore[attr-defined]
    config.pretrained_lora = spec.adapter
    config.engine = spec.engine
    return config


def _local_arguments(spec: RunSpec) -> Any:
    """The job's arguments as this process needs them: a scratch folder, and checkpoints that can be resumed."""
    arguments = spec.training_args.model_copy(deep=True)
    arguments.output_dir = str(Path(spec.run_dir) / "output")
    arguments.report_to = "none"
    arguments.use_cpu = spec.device == "cpu"
    arguments.save_strategy = arguments.save_strategy or "no"
    arguments.save_only_model = False
    arguments.resume_from_checkpoint = None
    arguments.disable_tqdm = True  # type: ignore[attr-defined]
    arguments.push_to_hub = False  # type: ignore[attr-defined]
    return arguments


def _datasets(spec: RunSpec) -> dict[str, Any]:
    from opensloth.datasets.canonical import FileRows
    from opensloth.datasets.prepared_cache import PreparedCache

    cache = PreparedCache(spec.cache_dir, spec.cache_bytes, spec.job_id) if spec.cache_dir else None
    references = {"train": spec.dataset, "eval": spec.eval_dataset}
    return {
        split: FileRows(ref.path, ref.container, ref.name, ref.sha256, cache)
        for split, ref in references.items()
        if ref is not None
    }


def _reward_policy(spec: RunSpec) -> Any:
    from opensloth.rewards import RewardPolicy

    folder = Path(spec.rewards_dir) if spec.rewards_dir else None
    return RewardPolicy(tuple(spec.reward_urls), folder, spec.reward_timeout_s, spec.reward_python)


def _stopped_early(config: Any, progress: Any) -> bool:
    patience = config.early_stopping_patience
    return patience is not None and progress.evaluations_without_gain >= patience


def _fetch_checkpoint(checkpoints: Any, spec: RunSpec, records: Records, rank: Rank, store: Any) -> Path | None:
    """Rank 0 copies and verifies the checkpoint to resume from; the others read the same copy."""
    if rank.is_main:
        local: Path | None = checkpoints.fetch_newest(records)
        if spec.attempt > 1:
            _tidy(checkpoints, records)
        if store is not None:
            store.set("resume", str(local or ""))
        return local
    path = store.get("resume").decode()
    return Path(path) if path else None


def _tidy(checkpoints: Any, records: Records) -> None:
    """Make room; a job is not lost for what cannot be removed."""
    try:
        checkpoints.remove_unannounced()
    except (Unavailable, OSError) as error:
        records.log(f"what earlier attempts left in the storage could not be removed: {error}", level="warning")


if __name__ == "__main__":
    main()
