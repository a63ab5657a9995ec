"""Results of jobs to export, made without training: a tiny model, and adapters with weights that matter."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sqlalchemy import update

from opensloth.jobs.rows import JobRow
from opensloth.models.registry import add_result
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from opensloth.training.exports.spec import ExportRun
from tests.support.jobs import ADMIN, add_file, body
from tests.support.tiny_model import make_tiny_model


def make_adapter(model: Path, folder: Path, **lora: Any) -> Path:
    """A LoRA adapter with random weights on both sides, beside the tokenizer that a job leaves there."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(model)
    chosen = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "o_proj", "down_proj"], **lora}
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **chosen))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    adapted.peft_config["default"].base_model_name_or_path = "tiny"
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    (folder / "README.md").write_text("---\nbase_model: tiny\n---\n# tone\n\n| job | ftjob-0a |\n")
    return folder


def make_qwen(folder: Path, kind: str) -> Path:
    """A tiny Qwen2 or Qwen3 with the tokenizer of the tiny Llama; its embedding is padded and not tied."""
    import torch
    import transformers

    make_tiny_model(folder)
    (folder / "model.safetensors").unlink()
    classes = {"qwen2": ("Qwen2Config", "Qwen2ForCausalLM"), "qwen3": ("Qwen3Config", "Qwen3ForCausalLM")}[kind]
    config = getattr(transformers, classes[0])(
        vocab_size=288,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        eos_token_id=258,
        pad_token_id=256,
        bos_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    getattr(transformers, classes[1])(config).save_pretrained(folder)
    return folder


def export_run(folder: Path, model: Path, adapter: Path | None, **spec: Any) -> ExportRun:
    """An export's specification with its folder and `run.json`; `folder` holds the storage too."""
    run_dir = folder / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    made = ExportRun(
        **{
            "job_id": "ftjob-0e",
            "job_name": "an export",
            "attempt": 1,
            "source_job_id": "ftjob-0a",
            "source_name": "tone",
            "format": "merged_16bit",
            "device": "cpu",
            "model": str(model),
            "base_name": "tiny",
            "adapter": str(adapter) if adapter else None,
            "run_dir": str(run_dir),
            "storage_url": str(folder / "storage"),
            "artifact_key": "jobs/ftjob-0e/artifacts",
            **spec,
        }
    )
    (run_dir / "run.json").write_text(made.model_dump_json())
    return made


def finished_job(services: Services, result: Path, base: Path | None = None, name: str = "tone") -> str:
    """A training job that has succeeded and left the folder `result`; its base `tiny` is registered if it is given."""
    if base is not None:
        register_base(services, base)
    job_id = services.jobs.submit(body(services, add_file(services), name), ADMIN)[0].id
    key = f"jobs/{job_id}/artifacts"
    files = services.storage.put_tree(result, key)
    config = result / "adapter_config.json"
    lora = json.loads(config.read_text()) if config.exists() else None
    with services.database.write() as session:
        model_id = add_result(
            session, job_id=job_id, base_id="tiny", owner="admin", team="default", name=name, key=key, size=1, lora=lora
        )
        artifacts = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
        session.execute(
            update(JobRow)
            .where(JobRow.id == job_id)
            .values(state="succeeded", result={"model": model_id, "artifacts": artifacts})
        )
    return job_id


def register_base(services: Services, folder: Path) -> None:
    """The model in `folder` as the base `tiny`."""
    services.storage.put_tree(folder, "models/tiny")
    with services.database.write() as session:
        session.add(
            ModelRow(
                id="tiny",
                kind="base",
                status="ready",
                owner="admin",
                source="/made/by/test",
                storage_key="models/tiny",
                created_at=time.time(),
            )
        )
