"""Loads what an engine serves: the base model, tokenizers, and the files of adapters."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensloth.chat.engine import rows
from opensloth.chat.engine.lora import CONFIG, WEIGHTS
from opensloth.chat.engine.spec import ChatRun
from opensloth.storage import Storage

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
_KEPT = 16
"""Tokenizers that stay loaded."""


def load_model(spec: ChatRun, token: str | None) -> Any:
    """The base model, with our attention; weights from safetensors alone, and no code of a model is run.

    Raises OSError where it is not found, ValueError where it is none that can be batched.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if os.path.isabs(spec.model) and not os.path.isdir(spec.model):
        raise FileNotFoundError(f"there is no model at {spec.model}")
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": rows.install()}
    if spec.device == "cuda":
        options["dtype"] = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        options["device_map"] = {"": torch.cuda.current_device()}
    options |= _options(spec.model, token)
    model = AutoModelForCausalLM.from_pretrained(
        spec.model, use_safetensors=True, trust_remote_code=False, **options
    ).eval()
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    if kinds:
        raise ValueError(f"the chat engine cannot batch layers of type {', '.join(sorted(kinds))}")
    if spec.adapter is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, spec.adapter).merge_and_unload()
    return model


@dataclass(frozen=True)
class Facts:
    """What the base says of itself, whoever runs it."""

    ends: frozenset[int]
    """Tokens after which an answer is over, beside those of a tokenizer."""
    vocabulary: int
    context: int
    """The longest sequence that this engine takes, in tokens."""
    fingerprint: str
    """What tells one setup from another: the same seed gives the same answer only under the same one."""

    def ends_of(self, tokenizer: Any) -> frozenset[int]:
        """The tokens that end an answer of a model with this tokenizer."""
        return self.ends | _numbers(tokenizer.eos_token_id)


def read_facts(spec: ChatRun, token: str | None, engine: str) -> Facts:
    """From the base's configuration; `engine` names what runs it, with its version."""
    from transformers import AutoConfig, GenerationConfig

    options = _options(spec.model, token)
    config = AutoConfig.from_pretrained(spec.model, trust_remote_code=False, **options)
    try:
        generation = GenerationConfig.from_pretrained(spec.model, **options).eos_token_id
    except OSError:  # it has none
        generation = None
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or spec.context_tokens
    said = [spec.model, spec.adapter, spec.device, engine]
    return Facts(
        ends=_numbers(generation) | _numbers(getattr(text, "eos_token_id", None)),
        vocabulary=int(text.vocab_size),
        context=min(spec.context_tokens, rows.longest_row(spec.kv_tokens), longest),
        fingerprint="fp_" + hashlib.sha256(json.dumps(said).encode()).hexdigest()[:10],
    )


def _numbers(value: Any) -> frozenset[int]:
    return frozenset([value] if isinstance(value, int) else value or ())


def _options(source: Path | str, token: str | None) -> dict[str, Any]:
    return {"local_files_only": True} if os.path.isabs(source) else {"token": token} if token else {}


class Sources:
    """Adapters' folders and tokenizers, fetched once; for several threads."""

    def __init__(self, spec: ChatRun, token: str | None) -> None:
        self._spec = spec
        self._token = token
        self._storage = Storage(spec.storage_url)
        self._lock = threading.Lock()
        self._tokenizers: OrderedDict[str, Any] = OrderedDict()
        base = Path(spec.adapter) if spec.adapter and _has_tokenizer(Path(spec.adapter)) else spec.model
        self.base = _load(base, token)
        self._base_folder = Path(base) if os.path.isabs(base) else None

    def folder(self, key: str) -> Path:
        """A local folder with the adapter's files; raises FileNotFoundError."""
        local = self._storage.local_path(key)
        if local is not None:
            if not (local / CONFIG).exists():
                raise FileNotFoundError(f"there is no adapter at {key}")
            return local
        with self._lock:
            folder = Path(self._spec.run_dir) / "adapters" / hashlib.sha256(key.encode()).hexdigest()[:24]
            if not (folder / CONFIG).exists():
                folder.mkdir(parents=True, exist_ok=True)
                names = {file.name for file in self._storage.list_tree(key) or ()}
                # The configuration comes last: with it the folder is complete.
                for name in [*_TOKENIZER, WEIGHTS, CONFIG]:
                    if name in names:
                        with self._storage.open(f"{key}/{name}") as source, (folder / name).open("wb") as sink:
                            shutil.copyfileobj(source, sink, 1 << 20)
                if not (folder / CONFIG).exists():
                    raise FileNotFoundError(f"there is no adapter at {key}")
            return folder

    def tokenizer(self, folder: Path | None) -> Any:
        """The tokenizer that the adapter was trained with, with its chat template; the base's where it has none."""
        if folder is None or not _has_tokenizer(folder) or self._is_bases(folder):
            return self.base
        with self._lock:
            known = self._tokenizers.get(str(folder)) or _load(folder, None)
            self._tokenizers[str(folder)] = known
            self._tokenizers.move_to_end(str(folder))
            while len(self._tokenizers) > _KEPT:
                self._tokenizers.popitem(last=False)
            return known

    def _is_bases(self, folder: Path) -> bool:
        if self._base_folder is None:
            return False
        return all(_bytes(folder / name) == _bytes(self._base_folder / name) for name in _TOKENIZER)


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").exists()


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _load(source: Path | str, token: str | None) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **_options(source, token))
