"""The README of an export: how it came about, how to load it, and the card of the job that trained it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from opensloth.training.exports.spec import ExportRun

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.S)
_LOADING = re.compile(r"^```python\n.*?^```\n+", re.S | re.M)


def export_card(run: ExportRun, file: str | None, measured: dict[str, float]) -> str:
    """The card's text; `file` is the GGUF file's name."""
    head: dict[str, Any] = {
        "base_model": run.base_name,
        "library_name": {"adapter": "peft", "gguf": "gguf"}.get(run.format, "transformers"),
        "tags": ["opensloth", *(["lora"] if run.format == "adapter" else [])],
    }
    title = f"# {run.source_name}" + {"gguf": " (GGUF)", "merged_16bit": " (merged)"}.get(run.format, "")
    rows = {"export": run.job_id, "made from": run.source_job_id, "base": run.base_name}
    if run.quantization:
        rows["quantization"] = run.quantization
    if "check/kl" in measured:
        rows["checked"] = f"differs from what it was made from by {measured['check/kl']:.2g} nats a token"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        title,
        _loading(run, file),
        f"| | |\n| --- | --- |\n{table}",
    ]
    training = _training_card(Path(run.origin))
    if training:
        parts.append(f"## How it was trained\n\n{training}")
    return "\n\n".join(parts) + "\n"


def _loading(run: ExportRun, file: str | None) -> str:
    if run.format == "gguf":
        return f"```bash\nllama-cli -m {file} -cnv\n```"
    load = 'model = AutoModelForCausalLM.from_pretrained("this folder")'
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if run.format == "adapter":
        imports = f"from peft import PeftModel\n{imports}"
        load = f'base = AutoModelForCausalLM.from_pretrained("{run.base_name}")\n'
        load += 'model = PeftModel.from_pretrained(base, "this folder")'
    return f'```python\n{imports}\n\n{load}\ntokenizer = AutoTokenizer.from_pretrained("this folder")\n```'


def _training_card(origin: Path) -> str:
    """The card that the training job wrote, without what is about loading its own files."""
    card = origin / "README.md"
    if not card.is_file():
        return ""
    text = _LOADING.sub("", _FRONT_MATTER.sub("", card.read_text()))
    return re.sub(r"^# .*\n+", "", text, count=1).strip()
