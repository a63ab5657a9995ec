"""Writes a model in 16 bits as a Hugging Face checkpoint, shard by shard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opensloth.training.exports.weights import WeightSource

SHARD_BYTES = 2 * 2**30
"""The size at which a new file begins, and so what memory holds."""
_MODEL_FILES = ("generation_config.json",)
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip

OnDone = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def stored_dtype(model: Path) -> str:
    """`float16` for a base that is stored so, else `bfloat16`."""
    config = json.loads((model / "config.json").read_text())
    return "float16" if (config.get("dtype") or config.get("torch_dtype")) == "float16" else "bfloat16"


def write_merged(
    source: WeightSource,
    model: Path,
    tokenizer: Path,
    target: Path,
    on_done: OnDone,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Fills the new folder `target` with weights, config and tokenizer; `model` and `tokenizer` are folders."""
    import torch
    from safetensors.torch import save_file

    target.mkdir(parents=True)
    dtype = stored_dtype(model)
    shards = _plan(source, shard_bytes)
    total, done = sum(_bytes(source, name) for name in source.names), 0
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = {}
        for name in names:
            tensor = source.tensor(name)
            tensors[name] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
            weight_map[name] = file
            done += _bytes(source, name)
            on_done(done, total)
        save_file(tensors, target / file, metadata={"format": "pt"})
        (target / file).chmod(0o644)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    _write_config(model, target, dtype)
    copy_tokenizer(tokenizer, model, target)


def copy_tokenizer(tokenizer: Path, model: Path, target: Path) -> None:
    """Takes the tokenizer that the job trained with; the base's where the job left none."""
    source = tokenizer if (tokenizer / "tokenizer_config.json").exists() else model
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _write_config(model: Path, target: Path, dtype: str) -> None:
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    for name in ("_name_or_path", "_model_name_or_path", "torch_dtype"):
        config.pop(name, None)
    config["dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name in _MODEL_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, target / name)


def _plan(source: WeightSource, shard_bytes: int) -> list[list[str]]:
    """Names by shard; a tensor that is larger than a shard has one for itself."""
    shards: list[list[str]] = []
    filled = 0
    for name in source.names:
        size = _bytes(source, name)
        if not shards or filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _bytes(source: WeightSource, name: str) -> int:
    size = 2
    for side in source.shape(name):
        size *= side
    return size
