"""Group relative policy optimization by TRL's GRPOTrainer, on rewards that are bounded and named."""

from __future__ import annotations

from typing import Any

from trl import GRPOConfig, GRPOTrainer

from opensloth.datasets.prepared import Prepared
from opensloth.datasets.prompts import prepare_grpo
from opensloth.errors import InvalidDataset
from opensloth.resolve import Resolved
from opensloth.rewards import RewardPolicy, RewardRunner, as_trl_reward_funcs, build_rewards
from opensloth.training.methods.arguments import build_arguments
from opensloth.training.methods.reference import drop_needless_copy
from opensloth.training.methods.rollouts import Rollouts
from opensloth.training.methods.splits import prepare_splits
from opensloth.training.rank_trainer import RankTrainer
from opensloth.trl_arguments import grpo_arguments


class OpenSlothGRPOTrainer(RankTrainer, Rollouts, GRPOTrainer):
    """TRL's GRPO with the steps of a rank."""

    def count(self, inputs: Any) -> tuple[Any, int]:
        """Tokens of prompts and answers, and answers."""
        return inputs["prompt_mask"].sum() + inputs["completion_mask"].sum(), len(inputs["prompt_mask"])


def create_grpo_trainer(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> OpenSlothGRPOTrainer:
    """A trainer over raw prompts. Raises InvalidInput for rewards that are not there or not allowed."""
    config = resolved.opensloth_config
    grpo = config.grpo_args
    assert grpo is not None
    policy = resolved.reward_policy or RewardPolicy(urls=_named_urls(grpo.reward_functions))
    rewards = build_rewards(grpo.reward_functions, policy, path="opensloth_config.grpo_args.reward_functions")
    arguments = build_arguments(
        GRPOConfig,
        grpo_arguments(resolved.training_args, resolved.device, grpo, [reward.weight for reward in rewards]),
    )
    splits = prepare_splits(
        prepare_grpo,
        dataset,
        tokenizer,
        rewards,
        max_prompt_length=grpo.max_prompt_length,
        filter_overlength=config.filter_overlength_samples,
    )
    _enough_prompts(splits.train, arguments.generation_batch_size // grpo.num_generations)
    runner = RewardRunner(policy)
    trainer = OpenSlothGRPOTrainer(
        model=model,
        reward_funcs=as_trl_reward_funcs(rewards, runner),
        args=arguments,
        **splits.datasets,
        processing_class=tokenizer,
    )
    trainer.rewards, trainer.runner, trainer.longest_prompt = rewards, runner, grpo.max_prompt_length
    drop_needless_copy(model)
    trainer.data_counts = splits.counts
    return trainer


def _named_urls(specs: Any) -> tuple[str, ...]:
    """In a script the person who runs it decides; the URLs that it names are allowed."""
    return tuple(url for spec in specs if isinstance(url := spec.params.get("url"), str))


def _enough_prompts(train: Prepared, needed: int) -> None:
    """TRL samples for whole batches of prompts and leaves out what remains of an epoch."""
    if train.counts.kept < needed:
        raise InvalidDataset(
            f"a step samples answers to {needed} prompts and the data has {train.counts.kept}",
            hint="add prompts, or lower gradient_accumulation_steps or per_device_train_batch_size",
        )
