"""Exceptions to failures: a code that the service knows, a sentence, and what to do next. Imports no torch."""

from __future__ import annotations

import errno
import os
import traceback
from dataclasses import dataclass
from pathlib import Path

from opensloth.errors import InvalidDataset, InvalidInput, OpenSlothError
from opensloth.hub import HubFailed
from opensloth.rewards.failures import RewardFailed
from opensloth.training.exports.failures import ExportFailed

DETAIL_LINES = 30
MARKER = "failed"

HINTS = {
    "cuda_oom": "lower per_device_train_batch_size (raise gradient_accumulation_steps instead) or max_seq_length, "
    "or set load_in_4bit",
    "cpu_oom": "lower per_device_train_batch_size or max_seq_length, or take a smaller model",
    "crowded_out": "it is tried again; resources.exclusive keeps a device for one job",
    "device_error": "it is tried again; `opensloth devices` shows the GPU's health",
    "nan_loss": "lower learning_rate, raise warmup_steps, or look for broken rows in the data",
    "dataset_error": "correct the dataset and submit again",
    "reward_failed": "correct the reward that the message names, or the rows that it reads",
    "model_not_found": "check model_name; `opensloth models list` shows what is registered",
    "model_error": "the model must be a causal language model in safetensors that runs without code of its own",
    "invalid_arguments": "correct what the message names",
    "checkpoint_error": "submit again to train from the beginning",
    "storage_error": "check the storage's free space and that it is mounted",
    "export_unsupported": "the message says which other form there is",
    "export_differs": "report it with the job's log; nothing was kept",
    "push_refused": "look at the secret's token: it needs write access to that repository",
    "hub_refused": "accept the conditions there, and name a secret with your token as secrets.hub",
    "hub_unavailable": "it is tried again; where a host has no network, register the model from a folder on the server",
    "internal_error": "the last lines of the log say where",
}

DEVICE_ERRORS = (
    "uncorrectable ECC error",
    "unspecified launch failure",
    "hardware stack error",
    "CUDA error: unknown error",
    "CUDA error: initialization error",
    "CUDA-capable device(s) is/are busy or unavailable",
    "no CUDA-capable device is detected",
    "CUDA driver initialization failed",
    "CUDA error: system not yet initialized",
    "CUDA error: Invalid access of peer GPU memory over nvlink",
    "CUDA error: the GPU is lost",
    "CUDA unknown error",
)
"""Texts of errors for which the GPU or its driver is at fault, not what ran on it."""
_FULL = (
    *("No space left on device", "StorageFull", "Disk quota exceeded"),
    *("PytorchStreamWriter failed", "iostream error"),
)
"""What libraries say of a full disk whose errors are no OSError."""
_OOM = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


@dataclass(frozen=True)
class Failure:
    """Why a run failed; `detail` is the end of the traceback."""

    code: str
    message: str
    hint: str
    detail: str


def describe(error: BaseException, phase: str) -> Failure:
    """The failure that `error` means in `phase` (loading_model, preparing_data, training, saving)."""
    code = _code(error, phase)
    lines = "".join(traceback.format_exception(error)).splitlines()
    hint = (error.hint if isinstance(error, OpenSlothError) else None) or HINTS[code]
    text = str(error).strip().splitlines()
    message = text[0] if text else type(error).__name__
    return Failure(code, message[:500], hint, "\n".join(lines[-DETAIL_LINES:]))


def _code(error: BaseException, phase: str) -> str:
    text = str(error)
    names = {base.__name__ for base in type(error).__mro__}
    if isinstance(error, ExportFailed | HubFailed):
        return error.error_code
    if isinstance(error, InvalidDataset):
        return "dataset_error"
    if isinstance(error, InvalidInput) or "training arguments" in getattr(error, "__notes__", ()):
        return "invalid_arguments"
    if isinstance(error, RewardFailed):
        return "reward_failed"
    if "StorageUnavailable" in names:
        return "storage_error"
    if "NonFiniteTraining" in names:
        return "nan_loss"
    if "OutOfMemoryError" in names or "CUDA out of memory" in text or any(sign in text for sign in _OOM):
        return "cuda_oom"
    if any(sign in text for sign in DEVICE_ERRORS):
        return "device_error"
    if _is_full(error):
        return "storage_error"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "cpu_oom"
    if "StorageCorrupt" in names or "CheckpointUnusable" in names:
        return "checkpoint_error"
    if phase == "loading_model":
        return _loading_code(error, names)
    if phase == "preparing_data" and isinstance(error, OSError | UnicodeDecodeError):
        return "dataset_error"
    if isinstance(error, OSError) and (phase == "saving" or error.errno == errno.EROFS):
        return "storage_error"
    return "internal_error"


def _is_full(error: BaseException) -> bool:
    """Whether a disk without room is behind it; what follows in closing a file may hide the cause."""
    seen: BaseException | None = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(sign in str(seen) for sign in _FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _loading_code(error: BaseException, names: set[str]) -> str:
    missing = {"RepositoryNotFoundError", "EntryNotFoundError", "LocalEntryNotFoundError", "HFValidationError"}
    if names & missing or isinstance(error, FileNotFoundError):
        return "model_not_found"
    if isinstance(error, OSError):
        if "We couldn't connect to" in str(error):  # transformers says so where it finds neither hub nor cached files
            return "hub_unavailable"
        return "model_not_found" if "is not a local folder" in str(error) else "model_error"
    if "SafetensorError" in names:
        return "model_error"
    if isinstance(error, ValueError) and "Target modules" in str(error):
        return "invalid_arguments"
    return "model_error" if isinstance(error, ValueError | KeyError | ImportError) else "internal_error"


def first_to_fail(run_dir: Path) -> bool:
    """Whether this rank is the first of its job to fail: what follows on the others is no cause."""
    try:
        os.close(os.open(run_dir / MARKER, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True
