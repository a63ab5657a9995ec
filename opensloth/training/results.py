"""What a finished run leaves: the adapter (or model), its tokenizer, and a card that says how it came about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from opensloth.methods import get_method
from opensloth.storage import Storage, StoredFile
from opensloth.training.run_spec import RunSpec

ADAPTER_CONFIG = "adapter_config.json"
SERVER_FIELDS = ("name_or_path", "local_files_only", "is_local", "_name_or_path")
"""Fields of JSON files that say where this host had its copy of the base."""


def save_result(
    trainer: Any,
    tokenizer: Any,
    spec: RunSpec,
    storage: Storage,
    metrics: dict[str, Any],
    weights: dict[str, Any] | None = None,
) -> list[StoredFile]:
    """Puts the trained adapter or model, whole, at the run's artifact key and returns its files.

    `weights` are those of a model that holds a part of them itself.
    """
    folder = Path(spec.run_dir) / "result"
    shutil.rmtree(folder, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_adapter(model):
        # A `ref` adapter is what DPO started from; it is no part of what it made.
        model.save_pretrained(folder, selected_adapters=["default"], safe_serialization=True)
    else:
        model.save_pretrained(folder, state_dict=weights, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (folder / "training_args.bin").unlink(missing_ok=True)
    _forget_the_server(folder, spec)
    (folder / "README.md").write_text(model_card(spec, is_adapter(model), metrics))
    return storage.put_tree(folder, spec.artifact_key, move=True)


def is_adapter(model: Any) -> bool:
    """Whether an adapter was trained, not the whole model."""
    return hasattr(model, "peft_config")


def _forget_the_server(folder: Path, spec: RunSpec) -> None:
    """Names the base by its name wherever a file names this host's copy of it."""
    for file in folder.glob("*.json"):
        if file.name == "tokenizer.json":
            continue
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            continue
        changed = {key: value for key, value in values.items() if key not in SERVER_FIELDS}
        if file.name == ADAPTER_CONFIG:
            changed["base_model_name_or_path"] = spec.base_name
            changed["revision"] = spec.base_revision
        if changed != values:
            file.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n")


def model_card(spec: RunSpec, adapter: bool, metrics: dict[str, Any]) -> str:
    """The README of a result: base, data with its hash, method, resolved arguments, final metrics."""
    method = get_method(spec.opensloth_config.training_type)
    head = {
        "base_model": spec.base_name,
        "library_name": "peft" if adapter else "transformers",
        "tags": ["opensloth", method.name, *(["lora"] if adapter else [])],
    }
    config = spec.opensloth_config.model_dump(
        mode="json", exclude={"data_cache_path", "devices", "log_level", "pretrained_lora"}, exclude_none=True
    )
    config["fast_model_args"]["model_name"] = spec.base_name
    arguments = spec.training_args.model_dump(
        mode="json", exclude={"output_dir", "resume_from_checkpoint", "report_to"}, exclude_none=True
    )
    data = [("train", spec.dataset)] + ([("eval", spec.eval_dataset)] if spec.eval_dataset else [])
    base = spec.base_name + (f" (revision {spec.base_revision})" if spec.base_revision else "")
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {spec.job_name}",
        f"{'A LoRA adapter' if adapter else 'A model'} made from {base} by {method.title} ({method.name}).",
    ]
    if adapter:
        load = 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "this folder")'
        lines.append(
            f"```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n{load}\n```"
        )
    lines += [
        "| | |\n| --- | --- |\n"
        + "\n".join(
            [
                f"| job | {spec.job_id} |",
                f"| base | {base} |",
                f"| continued from an adapter | {'yes' if spec.adapter else 'no'} |",
                f"| engine | {spec.engine} on {spec.world_size} x {spec.device} |",
                *(f"| {split} data | {ref.name}, sha256 `{ref.sha256}` |" for split, ref in data),
            ]
        ),
        "## Final metrics\n\n| metric | value |\n| --- | --- |\n"
        + "\n".join(f"| {name} | {_shown(value)} |" for name, value in sorted(metrics.items())),
        "## Resolved arguments\n\n```yaml\n"
        + yaml.safe_dump({"opensloth_config": config, "training_args": arguments}, sort_keys=False)
        + "```",
    ]
    return "\n\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
