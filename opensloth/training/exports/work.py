"""The work of an export from its first to its last step: load and ask, write, load again and compare."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensloth.training.exports import check
from opensloth.training.exports.card import export_card
from opensloth.training.exports.failures import ExportFailed
from opensloth.training.exports.merged import copy_tokenizer, write_merged
from opensloth.training.exports.spec import ExportRun
from opensloth.training.exports.weights import WeightSource, can_stream, merge_in_memory, refuse_quantized
from opensloth.training.results import ADAPTER_CONFIG

if TYPE_CHECKING:
    from opensloth.training.records import Records

_TELL_EVERY_S = 1.0
_MODEL_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]


class ExportWork:
    """Makes one export in the scratch folder of its attempt."""

    def __init__(self, spec: ExportRun, records: Records, token: str | None) -> None:
        self._spec = spec
        self._records = records
        self._token = token
        self._scratch = Path(spec.run_dir)
        self._told = 0.0

    def make(self) -> tuple[Path, dict[str, float]]:
        """The folder with the checked export, and what was measured. Raises ExportFailed."""
        spec, records = self._spec, self._records
        records.phase("loading_model", f"loading {spec.base_name}")
        model = self._model_folder()
        adapter = Path(spec.adapter) if spec.adapter else None
        tokenizer = adapter if adapter and (adapter / "tokenizer_config.json").exists() else model
        if spec.format != "adapter":
            refuse_quantized(model)
        elif adapter is None:
            raise ExportFailed("the job trained the whole model, so that there is no adapter", code="invalid_arguments")
        prompts = check.prompt_ids(_load_tokenizer(tokenizer))
        reference, bare = self._reference(model, adapter, prompts)
        records.write("started", "the model answers; its export begins", step=0, max_steps=100, resumed_step=0)
        records.phase("exporting", f"writing {spec.format}" + (f" {spec.quantization}" if spec.quantization else ""))
        folder = self._scratch / "result"
        shutil.rmtree(folder, ignore_errors=True)
        file, again = self._write(model, adapter, tokenizer, folder)
        records.phase("checking", "loading the result and comparing its answers")
        spoken = check.speak_and_free(again, prompts)
        metrics = check.compare(reference, spoken, spec.quantization or "merged_16bit", bare)
        (folder / "README.md").write_text(export_card(spec, file, metrics))
        text = f"checked: it differs by {metrics['check/kl']:.2g} nats a token from what it was made from"
        records.write("metrics", text, step=100, max_steps=100, metrics=metrics)
        return folder, metrics

    def _model_folder(self) -> Path:
        """The base as a local folder; one of the hub is fetched first."""
        spec = self._spec
        if Path(spec.model).is_absolute():
            if not Path(spec.model).is_dir():
                raise FileNotFoundError(f"there is no model at {spec.model}")
            return Path(spec.model)
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                spec.model, revision=spec.base_revision, token=self._token or False, allow_patterns=_MODEL_FILES
            )
        )

    def _reference(
        self, model: Path, adapter: Path | None, prompts: list[list[int]]
    ) -> tuple[check.Spoken, check.Spoken | None]:
        """What the result has to say, and what the base says without its adapter."""
        device = self._spec.device
        bare = None
        if adapter is not None:
            bare = check.speak_and_free(lambda: check.load(model, device), prompts)
        return check.speak_and_free(self._loader(model, adapter), prompts), bare

    def _loader(self, model: Path, adapter: Path | None) -> Callable[[], Any]:
        device = self._spec.device
        if adapter is None:
            return lambda: check.load(model, device)
        return lambda: check.with_adapter(check.load(model, device), adapter)

    def _write(
        self, model: Path, adapter: Path | None, tokenizer: Path, folder: Path
    ) -> tuple[str | None, Callable[[], Any]]:
        """Fills `folder`; returns the name of a GGUF file and how the result is loaded."""
        spec = self._spec
        if spec.format == "adapter":
            assert adapter is not None
            self._copy_adapter(adapter, folder)
            return None, self._loader(model, folder)
        source = self._source(model, adapter)
        if spec.format == "merged_16bit":
            write_merged(source, model, tokenizer, folder, self._tell)
            return None, lambda: check.load(folder, spec.device)
        return self._write_gguf(source, model, tokenizer, folder)

    def _write_gguf(
        self, source: WeightSource, model: Path, tokenizer: Path, folder: Path
    ) -> tuple[str, Callable[[], Any]]:
        from transformers import AutoConfig

        from opensloth.training.exports.gguf_file import read_fields, write_gguf
        from opensloth.training.exports.gguf_vocabulary import compare_vocabulary

        assert self._spec.quantization is not None
        folder.mkdir(parents=True)
        slug = re.sub(r"[^A-Za-z0-9.-]+", "-", self._spec.source_name).strip("-.") or "model"
        name = f"{slug}-{self._spec.quantization}.gguf"
        config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=True)
        # The tokenizer of the base fills in what the job's folder lacks, as for a merged model.
        vocabulary = self._scratch / "tokenizer"
        vocabulary.mkdir(exist_ok=True)
        copy_tokenizer(tokenizer, model, vocabulary)
        write_gguf(
            source, config, vocabulary, folder / name, self._spec.source_name, self._spec.quantization, self._tell
        )
        compare_vocabulary(read_fields(folder / name), vocabulary)
        return name, lambda: check.load(folder, self._spec.device, gguf_file=name, config=config)

    def _source(self, model: Path, adapter: Path | None) -> WeightSource:
        if can_stream(model, adapter):
            return WeightSource(model, adapter)
        assert adapter is not None
        self._records.log("this kind of adapter is merged in memory by PEFT", level="warning")
        merged = self._scratch / "merged"
        merge_in_memory(model, adapter, merged)
        return WeightSource(merged)

    def _copy_adapter(self, adapter: Path, folder: Path) -> None:
        """The adapter under the name by which people find its base."""
        shutil.copytree(adapter, folder, ignore=shutil.ignore_patterns("MANIFEST.json", "README.md"))
        config = json.loads((folder / ADAPTER_CONFIG).read_text())
        config["base_model_name_or_path"] = self._spec.base_name
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        self._tell(1, 1)

    def _tell(self, done: int, total: int) -> None:
        """Progress in percent, at most once a second."""
        now = time.monotonic()
        if done < total and now - self._told < _TELL_EVERY_S:
            return
        self._told = now
        step = int(100 * done / total)
        self._records.write("metrics", f"{step}%", step=step, max_steps=100, metrics={})


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
