"""What a trainer may see of the worker's environment: an allowlist, so that no secret gets there."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = {
    "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHONPATH", "SHELL", "TERM", "TMPDIR", "TZ",
    "USER", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "HF_HOME", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME",
    "CUDA_HOME", "CUDA_PATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
    "PYTHONDONTWRITEBYTECODE", "WANDB_BASE_URL",
}  # fmt: skip
_PREFIXES = ("NCCL_", "GLOO_", "OMP_", "MKL_", "NVIDIA_", "UNSLOTH_")
_GOOGLE = ("GOOGLE_", "GCS_", "GCLOUD_", "STORAGE_EMULATOR_HOST")
_STORES = {
    **dict.fromkeys(("s3", "s3a"), ("AWS_",)),
    **dict.fromkeys(("gs", "gcs"), _GOOGLE),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), ("AZURE_",)),
}
"""What the drivers of object stores read: trainers write checkpoints and results themselves."""


def trainer_environment(parent: Mapping[str, str], **extra: str) -> dict[str, str]:
    """The allowlisted part of `parent`, what every trainer gets, and `extra`.

    The credentials of an object store are in it only where that is the storage.
    """
    scheme, is_url, _ = parent.get("OPENSLOTH_STORAGE_URL", "").partition("://")
    prefixes = (*_PREFIXES, *(("FSSPEC_", *_STORES.get(scheme, ())) if is_url else ()))
    kept = {name: value for name, value in parent.items() if name in _NAMES or name.startswith(prefixes)}
    fixed = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # a token that lies in HF_HOME is the host's, not a job's
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "WANDB_DISABLED": "true",
    }
    return {**kept, **fixed, **extra}
