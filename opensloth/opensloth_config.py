"""What to train: the configuration that Python scripts build and that a job carries over HTTP.

It needs pydantic and nothing else, so that a laptop without torch can write and check it.
"""

from __future__ import annotations

import difflib
import warnings
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from opensloth.method_args import METHOD_ARGS as _ARGS
from opensloth.method_args import DPOArgs, GRPOArgs, KTOArgs, ORPOArgs, RewardSpec
from opensloth.training_arguments import QUIET, Seed, TrainingArguments

__all__ = [
    "DPOArgs",
    "FastModelArgs",
    "GRPOArgs",
    "KTOArgs",
    "LoraArgs",
    "ORPOArgs",
    "OpenSlothConfig",
    "RewardSpec",
    "TrainingArguments",
]

SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class FastModelArgs(BaseModel):
    """How the base model is loaded; further fields go on to Unsloth's `FastModel.from_pretrained`."""

    model_config = _ARGS

    model_name: str = Field(min_length=1)
    """A registered model, a hub id, an earlier job's result or, in a script, a local directory."""
    max_seq_length: int = Field(default=4096, ge=8, le=1_048_576)
    """Longest row that is trained on, in tokens."""
    load_in_4bit: bool = True
    """Keep the base weights in 4 bits (QLoRA); 16 or 32 bits where the engine or the device cannot."""
    load_in_8bit: bool = False
    """Keep the base weights in 8 bits, instead of 4."""
    full_finetuning: bool = False
    """Train all weights instead of a LoRA adapter."""
    use_gradient_checkpointing: bool | Literal["unsloth"] = "unsloth"
    """Compute activations twice instead of keeping them: true, false, or "unsloth" for Unsloth's own way; when not set,
    a job keeps them where there is clearly memory for it."""


class LoraArgs(BaseModel):
    """The shape of the LoRA adapter (arXiv:2106.09685)."""

    model_config = _ARGS

    r: int = Field(default=16, ge=1, le=4096)
    """Rank of the update of each weight; 16 unless the method has another default (DPO: 32)."""
    lora_alpha: int = Field(default=16, ge=1, le=65_536)
    """Scale: the update is multiplied by alpha / r; equal to r when not set."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is dropped in training, 0 to below 1."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained besides."""
    target_modules: list[str] | str = Field(default_factory=lambda: list(SEVEN_PROJECTIONS), min_length=1)
    """Names of the layers that get an adapter, or "all-linear"; the seven projections of attention and MLP."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (arXiv:2312.03732)."""
    random_state: Seed = 3407
    """Seed of the adapter's first weights, 0 to 2**32 - 1."""


class OpenSlothConfig(BaseModel):
    """One training: its method, model, adapter and data handling; `TrainingArguments` is its other half.

    `model_fields_set` of it and of its parts tells what the user set; `opensloth.resolve.resolve` fills the rest.
    A built-in method's own arguments are a class in `opensloth.method_args` and a field beside `dpo_args`; those of a
    method that a plugin registered are in `method_args`.
    """

    model_config = ConfigDict(
        extra="ignore", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True, protected_namespaces=()
    )

    training_type: str = "sft"
    """The method: "sft", "dpo", "kto", "orpo", "grpo", or one that was registered in `opensloth.methods`."""
    engine: Literal["auto", "unsloth", "transformers"] = "auto"
    """What trains: auto takes transformers, faster where memory allows it; Unsloth needs the least memory."""
    fast_model_args: FastModelArgs
    """The base model."""
    lora_args: LoraArgs | None = None
    """The adapter; the method's defaults when not set, none with full fine-tuning."""
    dpo_args: DPOArgs | None = None
    """DPO's own arguments; only with `training_type="dpo"`."""
    kto_args: KTOArgs | None = None
    """KTO's own arguments; only with `training_type="kto"`."""
    orpo_args: ORPOArgs | None = None
    """ORPO's own arguments; only with `training_type="orpo"`."""
    grpo_args: GRPOArgs | None = None
    """GRPO's own arguments, rewards among them; only with `training_type="grpo"`."""
    method_args: dict[str, Any] | None = None
    """The own arguments of a training type that a plugin registered, as its `Method.args_class` takes them."""
    pretrained_lora: str | None = Field(default=None, min_length=1)
    """The adapter that training goes on from: an earlier job's result or, in a script, a local directory."""

    shard_weights: bool | None = None
    """Spread weights, gradients and optimizer states over the job's devices (FSDP2): full fine-tuning by SFT with the
    transformers engine. When not set, a job does so that does not fit one device and fits its devices in shards."""

    sequence_packing: bool = True
    """Put several short rows into one sequence; on for SFT unless a job has little data. The other methods' rows are
    never packed."""
    filter_overlength_samples: bool = True
    """Leave rows out that are longer than `max_seq_length` (or the method's `max_length`) tokens; false cuts them."""
    dataset_form: str | None = Field(default=None, max_length=64)
    """Form of the dataset's rows ("messages", "alpaca", "sharegpt", ...); by the first rows when not set."""
    loss_on: Literal["assistant", "completion", "all"] | None = None
    """Tokens that SFT learns: "assistant" turns, "completion", or "all"; by the form of the data when not set."""

    eval_split: float | None = Field(default=None, gt=0, lt=1)
    """Share of the training rows that is kept for evaluation instead, above 0 and below 1; drawn with `data_seed`."""
    early_stopping_patience: int | None = Field(default=None, ge=1, le=10_000)
    """Evaluations in a row that may pass without a better `metric_for_best_model`; then training ends. None: never."""
    early_stopping_threshold: float = Field(default=0.0, ge=0, le=1e6)
    """What the metric must gain to count as better, in its own unit."""

    data_cache_path: str | None = None
    """Local directory or file of the data in a script; over HTTP it is the job's `dataset`."""
    devices: list[int] = Field(default_factory=lambda: [0])
    """Indices of the GPUs in a script; over HTTP it is `resources.gpus`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that the trainer logs."""

    @model_validator(mode="before")
    @classmethod
    def _warn_of_unknown_fields(cls, values: Any, info: ValidationInfo) -> Any:
        """Say which fields have no meaning here, rather than train as if they had been understood."""
        if not isinstance(values, dict) or info.context == QUIET:
            return values
        for name in values.keys() - cls.model_fields.keys():
            near = difflib.get_close_matches(str(name), cls.model_fields, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            warnings.warn(f"OpenSlothConfig has no field {name!r}, it is left out{meant}", stacklevel=2)
        return values
