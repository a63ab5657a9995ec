"""What each training method alone needs: one class a method, beside what all share in `opensloth_config`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_REWARD_NAME = 128
MAX_REWARDS = 20

METHOD_ARGS = ConfigDict(
    extra="allow", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True, protected_namespaces=()
)


class DPOArgs(BaseModel):
    """What DPO alone needs (arXiv:2305.18290); further fields go on to TRL's `DPOConfig`."""

    model_config = METHOD_ARGS

    beta: float = Field(default=0.1, gt=0, le=1000)
    """Weight of staying near the reference model, a plain number: the higher, the nearer."""
    max_length: int = Field(default=1024, ge=8, le=1_048_576)
    """Longest prompt with its answer, in tokens; see `filter_overlength_samples` for longer pairs."""
    max_prompt_length: int | None = Field(default=512, ge=1, le=1_048_576)
    """Longest prompt, in tokens; its beginning is cut. None leaves the prompt whole."""
    loss_type: str | list[str] = Field(default="sigmoid", min_length=1)
    """TRL's name of the loss ("sigmoid", "ipo", "hinge", ...), or several that are added."""
    loss_weights: list[float] | None = None
    """Factor of each loss where `loss_type` names several; all 1 when not set."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round, 0 to below 0.5; for the losses that know it."""


class KTOArgs(BaseModel):
    """What KTO alone needs (arXiv:2402.01306); further fields go on to TRL's `KTOConfig`."""

    model_config = METHOD_ARGS

    beta: float = Field(default=0.1, gt=0, le=1000)
    """Weight of staying near the reference model, a plain number: the higher, the nearer."""
    max_length: int = Field(default=1024, ge=8, le=1_048_576)
    """Longest prompt with its answer, in tokens; see `filter_overlength_samples` for longer rows."""
    max_prompt_length: int | None = Field(default=512, ge=1, le=1_048_576)
    """Longest prompt, in tokens; its beginning is cut. None leaves the prompt whole."""
    desirable_weight: float | None = Field(default=None, gt=0, le=1000)
    """Factor of the loss of rows whose label is true; when neither is set, the rarer label weighs more, the other 1."""
    undesirable_weight: float | None = Field(default=None, gt=0, le=1000)
    """Factor of the loss of rows whose label is false; balanced from the counts of both labels when not set."""
    loss_type: str = Field(default="kto", min_length=1)
    """TRL's name of the loss: "kto", or "apo_zero_unpaired", which estimates no KL (arXiv:2408.06266)."""


class ORPOArgs(BaseModel):
    """What ORPO alone needs (arXiv:2403.07691); further fields go on to TRL's `ORPOConfig`."""

    model_config = METHOD_ARGS

    beta: float = Field(default=0.1, gt=0, le=1000)
    """Weight of the odds ratio beside the likelihood of the chosen answer, lambda in the paper, a plain number."""
    max_length: int = Field(default=1024, ge=8, le=1_048_576)
    """Longest prompt with its answer, in tokens; see `filter_overlength_samples` for longer pairs."""
    max_prompt_length: int | None = Field(default=512, ge=1, le=1_048_576)
    """Longest prompt, in tokens; its beginning is cut. None leaves the prompt whole."""


class RewardSpec(BaseModel):
    """One entry of `reward_functions`; a plain string means its name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=MAX_REWARD_NAME)
    """A reward that `GET /v1/rewards` lists, or `file:NAME` for one from the server's rewards folder."""
    weight: float = Field(default=1.0, ge=-1e6, le=1e6)
    """What its scores are multiplied by before the rewards are added up, a plain number."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The reward's own parameters."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class GRPOArgs(BaseModel):
    """What GRPO alone needs (arXiv:2402.03300); further fields go on to TRL's `GRPOConfig`."""

    model_config = METHOD_ARGS

    reward_functions: list[RewardSpec] = Field(default_factory=list, max_length=MAX_REWARDS)
    """What judges the answers: names, or objects of `name`, `weight` and `params`; see `opensloth.rewards`."""
    num_generations: int = Field(default=8, ge=2, le=1024)
    """Answers that are sampled for each prompt and compared with each other, a count."""
    max_prompt_length: int | None = Field(default=512, ge=1, le=1_048_576)
    """Longest prompt, in tokens; its beginning is cut. None leaves the prompt whole."""
    max_completion_length: int = Field(default=256, ge=1, le=1_048_576)
    """Longest answer that is sampled, in tokens; sampling ends there."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Randomness of sampling, a plain number: logits are divided by it."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of probability that the tokens to sample from must reach, above 0 to 1; 1 takes all."""
    top_k: int | None = Field(default=0, ge=0, le=1_048_576)
    """Number of most probable tokens to sample from; 0 or None takes all."""
    beta: float = Field(default=0.0, ge=0, le=1000)
    """Coefficient of the KL divergence from the reference model, a plain number; at 0 there is no reference model."""
    loss_type: str = Field(default="dapo", min_length=1)
    """TRL's name of the loss ("dapo", "grpo", "dr_grpo", "bnpo", ...), which says over what it is averaged."""
    epsilon: float = Field(default=0.2, gt=0, le=100)
    """How far below 1 the ratio of new to old probability is clipped, a plain number."""
    epsilon_high: float | None = Field(default=None, gt=0, le=100)
    """How far above 1 the ratio is clipped; as `epsilon` when not set."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Whether that ratio is taken for each token or for a whole answer (GSPO, arXiv:2507.18071)."""
    scale_rewards: bool | Literal["group", "batch", "none"] = "group"
    """By what standard deviation advantages are divided: that of the prompt's "group", of the "batch", or "none"."""
    num_iterations: int = Field(default=1, ge=1, le=100)
    """Times that each batch of answers is trained on, a count."""
    mask_truncated_completions: bool = False
    """Leave answers out of the loss that were cut at `max_completion_length`."""
