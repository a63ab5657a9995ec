"""Train from a script, on this machine: the functions that scripts of earlier releases import.

    setup_envs(opensloth_config, training_config)
    run_mp_training(opensloth_config.devices, opensloth_config, training_config)

It is the way of a job's trainer process too: `init_modules` makes model and adapter, `trainer_factory` the trainer.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments

logger = logging.getLogger(__name__)

SPLITS = ("train", "eval", "validation", "test")


def setup_envs(opensloth_config: OpenSlothConfig, training_config: TrainingArguments) -> None:
    """Set logging and environment: trackers that are not installed are left out, only the GPUs in `devices` are seen.

    Call it before torch is imported; `training_config.report_to` is changed.
    """
    level = opensloth_config.log_level.upper()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("opensloth").setLevel(level)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if "CUDA_VISIBLE_DEVICES" not in os.environ and "torch" not in sys.modules:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, opensloth_config.devices))
    asked = training_config.report_to or []
    asked = [asked] if isinstance(asked, str) else asked
    missing = {name for name in asked if name in ("tensorboard", "wandb") and importlib.util.find_spec(name) is None}
    if missing:
        logger.warning("%s is not installed, nothing is reported there", " and ".join(sorted(missing)))
        training_config.report_to = [name for name in asked if name not in missing] or "none"


def run_mp_training(gpus: Sequence[int], opensloth_config: OpenSlothConfig, training_config: TrainingArguments) -> None:
    """Train on all `gpus` of this host, one process each, and save the result in `output_dir`.

    On a host without a GPU one process trains. Raises SystemExit with the status of the first process that failed.
    """
    import torch

    count = min(len(gpus), torch.cuda.device_count()) if torch.cuda.is_available() else 1
    if count < len(gpus):
        logger.warning("%d devices were asked for, %d process%s train", len(gpus), count, "es" if count > 1 else "")
    if count == 1:
        train_on_single_gpu(gpus[0], opensloth_config, training_config)
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_train_rank, args=(rank, count, folder, opensloth_config, training_config))
            for rank in range(count)
        ]
        for rank in ranks:
            rank.start()
        _wait_for_all(ranks)


def train_on_single_gpu(gpu: int, opensloth_config: OpenSlothConfig, hf_train_args: TrainingArguments) -> Any:
    """Train in this process and save adapter (or model) and tokenizer in `output_dir`; returns the trainer.

    `gpu` is the index in `opensloth_config.devices`'s numbering and is kept for scripts of earlier releases: which
    GPUs a process sees is set by `setup_envs`.
    """
    from opensloth.init_modules import init_model_and_tokenizer
    from opensloth.models.local import local_model
    from opensloth.trainer_factory import create_trainer_by_type

    config = opensloth_config.model_copy(deep=True)
    config.fast_model_args.model_name = local_model(config.fast_model_args.model_name)
    model, tokenizer = init_model_and_tokenizer(config, hf_train_args)
    trainer = create_trainer_by_type(model, tokenizer, load_rows(config.data_cache_path), config, hf_train_args)
    for counts in trainer.data_counts:
        print(counts.sentence(), flush=True)
    trainer.train(resume_from_checkpoint=hf_train_args.resume_from_checkpoint)
    trainer.save_model(hf_train_args.output_dir)
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(hf_train_args.output_dir)
        print(f"saved in {hf_train_args.output_dir}", flush=True)
    return trainer


def load_rows(path: str | None) -> Any:
    """The rows behind `data_cache_path`: a file (JSONL, JSON, CSV, Parquet) or a directory.

    A directory is one that `datasets` saved, or one with a file for each split (`train.jsonl`, `eval.jsonl`). Raises
    FileNotFoundError, or InvalidDataset for a file that is no dataset.
    """
    from opensloth.datasets.readers import iter_rows

    if path is None:
        raise FileNotFoundError("data_cache_path is not set; name a file of rows or a directory")
    source = Path(path).expanduser()
    if source.is_file():
        return list(iter_rows(source))
    if (source / "dataset_info.json").exists() or (source / "dataset_dict.json").exists():
        from datasets import load_from_disk

        return load_from_disk(str(source))
    files = {file.stem: file for file in sorted(source.glob("*.*")) if file.stem in SPLITS}
    if "train" not in files:
        raise FileNotFoundError(f"there is no dataset at {source}: neither a file, a saved dataset nor train.jsonl")
    return {split: list(iter_rows(file)) for split, file in files.items()}


def _train_rank(
    index: int, count: int, folder: str, opensloth_config: OpenSlothConfig, training_config: TrainingArguments
) -> None:
    """One of several processes; the device that it takes has its own index among those that are visible."""
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count)}
    import torch.distributed

    from opensloth.init_modules import init_process_group, rank_from_environment

    device = "cuda" if torch.cuda.is_available() else "cpu"
    init_process_group(rank_from_environment(), Path(folder) / "rendezvous", device)
    train_on_single_gpu(opensloth_config.devices[index], opensloth_config, training_config)
    torch.distributed.destroy_process_group()


def _wait_for_all(ranks: list[Any]) -> None:
    """Wait until all ranks are done; the first that fails ends the others, which would wait for it forever."""
    running = list(ranks)
    while running:
        multiprocessing.connection.wait([rank.sentinel for rank in running])
        failed = [rank for rank in running if rank.exitcode not in (None, 0)]
        if failed:
            for rank in running:
                rank.terminate()
            for rank in running:
                rank.join()
            raise SystemExit(failed[0].exitcode)
        running = [rank for rank in running if rank.exitcode is None]
