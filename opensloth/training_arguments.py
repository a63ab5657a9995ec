"""The training arguments that users set, under the names that transformers gives them."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

MAX_SEED = 2**32 - 1
MAX_STEPS = 1_000_000_000
# Validation context of a server, whose readers get errors and not Python warnings.
QUIET = {"warn": False}

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
StepsOrShare = Annotated[int | float, Field(ge=0, le=MAX_STEPS)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingArguments(BaseModel):
    """What goes on to transformers and TRL: optimizer, batch, schedule, logging, evaluation and seeds.

    A field that is not declared here is kept and goes on as it is; transformers raises its own error for one it does
    not know. None means "let `resolve` or transformers decide". Raises pydantic's ValidationError for a value that no
    trainer could use.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True)

    output_dir: str = "saves/loras/"
    """Local directory for checkpoints and the result of a script; a job's results are artifacts instead."""

    per_device_train_batch_size: int = Field(default=8, ge=1, le=4096)
    """Rows (DPO, ORPO: pairs; GRPO: answers) in one pass on one device; 8 unless the method has another default,
    fewer in a job with little data."""
    per_device_eval_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Rows in one evaluation pass on one device; as many as in training when not set."""
    gradient_accumulation_steps: int = Field(default=4, ge=1, le=65_536)
    """Forward passes that make up one optimizer step, a count; fewer in a job with little data, when not set."""

    learning_rate: float = Field(default=2e-4, gt=0, le=100)
    """Peak learning rate, per optimizer step; 2e-4 unless the method has another default (DPO: 5e-6)."""
    lr_scheduler_type: str = "linear"
    """Shape of the learning rate over the steps, a name that transformers knows."""
    lr_scheduler_kwargs: dict[str, Any] | None = None
    """Further parameters of the schedule, such as `{"num_cycles": 2}`; their units are the schedule's."""
    warmup_steps: StepsOrShare = 10
    """Optimizer steps until the peak learning rate; a value below 1 is a share of all steps. A tenth of
    the steps in a job that has fewer than 100, when not set."""
    num_train_epochs: float = Field(default=3, gt=0, le=100_000)
    """Passes over the training data, a fraction allowed."""
    max_steps: int = Field(default=-1, ge=-1, le=MAX_STEPS)
    """Optimizer steps at which training ends, instead of epochs; -1 means by epochs."""

    optim: str = "adamw_8bit"
    """The optimizer, a name that transformers knows; 8-bit kinds fall back to 32-bit where bitsandbytes is not. If it
    is not set, an adapter on CUDA gets adamw_torch_fused, which is faster."""
    weight_decay: float = Field(default=0.01, ge=0, le=10)
    """Decoupled weight decay, a factor of the learning rate per step."""
    adam_beta1: Beta = 0.9
    """Decay of Adam's mean of gradients, per step."""
    adam_beta2: Beta = 0.999
    """Decay of Adam's mean of squared gradients, per step."""
    adam_epsilon: float = Field(default=1e-8, gt=0, le=1)
    """Added to Adam's denominator, a plain number."""
    max_grad_norm: float = Field(default=1.0, ge=0, le=1e6)
    """L2 norm to which gradients are clipped; 0 clips nothing."""
    neftune_noise_alpha: float | None = Field(default=None, ge=0, le=1000)
    """Strength of NEFTune's noise on the embeddings (arXiv:2310.05914), a plain number; None adds none."""

    bf16: bool | None = None
    """Train in bfloat16 mixed precision; where the device can, when not set."""
    fp16: bool | None = None
    """Train in float16 mixed precision; on a GPU without bfloat16, when not set."""
    gradient_checkpointing: bool | None = None
    """Compute activations twice instead of keeping them; follows `use_gradient_checkpointing` when not set."""
    use_cpu: bool | None = None
    """Train on the CPU even where there is a GPU; follows the device when not set."""

    logging_steps: StepsOrShare = 1
    """Optimizer steps between two records of metrics; a value below 1 is a share of all steps."""
    report_to: str | list[str] | None = "none"
    """Trackers of transformers that a script reports to ("wandb", "tensorboard"); a job's metrics are on the job."""

    eval_strategy: str | None = None
    """When to evaluate: "no", "steps" or "epoch"; each epoch if there is what to evaluate on, when not set."""
    eval_steps: StepsOrShare | None = None
    """Optimizer steps between two evaluations; a value below 1 is a share of all steps."""
    eval_on_start: bool = False
    """Evaluate before the first step as well."""

    load_best_model_at_end: bool = False
    """End with the weights of the best evaluation, by `metric_for_best_model`, instead of the last."""
    metric_for_best_model: str | None = Field(default=None, min_length=1, max_length=256)
    """The evaluation's metric that says which weights are best; "eval_loss" when not set (GRPO: "eval_reward")."""
    greater_is_better: bool | None = None
    """Whether that metric is better when greater; for all but losses, when not set."""

    save_strategy: str | None = None
    """When a checkpoint is due: "no", "steps" or "epoch"; a job also saves one every few minutes by itself."""
    save_steps: StepsOrShare | None = None
    """Optimizer steps between two checkpoints; a value below 1 is a share of all steps."""
    save_total_limit: int | None = Field(default=2, ge=1, le=1000)
    """Checkpoints that are kept, a count; the oldest goes first."""
    save_only_model: bool = False
    """Leave the optimizer's state out of checkpoints; such a checkpoint cannot be resumed."""
    resume_from_checkpoint: str | bool | None = None
    """Local checkpoint directory from which a script goes on; a job resumes by itself."""

    seed: Seed = 42
    """Seed of shuffling, dropout and initialisation, 0 to 2**32 - 1."""
    data_seed: Seed | None = None
    """Seed of the order of rows alone, 0 to 2**32 - 1; `seed` when not set."""
    dataloader_drop_last: bool = False
    """Leave out the last batch of an epoch if it is not full."""
    dataloader_num_workers: int = Field(default=0, ge=0, le=64)
    """Processes that load batches beside each rank, a count; 0 loads in the trainer itself."""
    train_sampling_strategy: str = "random"
    """Order of rows: "random", "sequential" or "group_by_length"."""
    dataset_num_proc: int | None = Field(default=None, ge=1, le=1024)
    """Processes that tokenize a dataset in a script, a count."""

    @model_validator(mode="before")
    @classmethod
    def _accept_warmup_ratio(cls, values: Any, info: ValidationInfo) -> Any:
        """Map `warmup_ratio`, which transformers 5 no longer knows, to a share in `warmup_steps`."""
        if not isinstance(values, dict) or "warmup_ratio" not in values:
            return values
        values = dict(values)
        ratio = values.pop("warmup_ratio")
        if ratio is None:
            return values
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1:
            raise ValueError(f"warmup_ratio is a share of all steps, at least 0 and below 1, not {ratio!r}")
        if values.get("warmup_steps"):
            message = "warmup_ratio is left out because warmup_steps is set"
        else:
            message = f"warmup_ratio={ratio} became warmup_steps={ratio}: below 1 it is a share of all steps"
            values["warmup_steps"] = ratio
        if info.context != QUIET:
            warnings.warn(message, FutureWarning, stacklevel=2)
        return values

    @field_validator("warmup_steps", "logging_steps", "eval_steps", "save_steps")
    @classmethod
    def _whole_from_one_on(cls, value: int | float | None) -> int | float | None:
        if isinstance(value, float) and value >= 1:
            if value != int(value):
                raise ValueError("from 1 on this counts steps and must be whole; below 1 it is a share of all steps")
            return int(value)
        return value

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 steps would train nothing; leave it out (or -1) to train by epochs")
        return value

    def to_dict(self) -> dict[str, Any]:
        """Keyword arguments for transformers' or TRL's config class: every field that is not None."""
        return {name: value for name, value in self.model_dump().items() if value is not None}
