"""Results of jobs to export, made without training: a tiny model, and adapters with weights that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opensloth.training.exports.spec import ExportRun
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
