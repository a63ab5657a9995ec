"""Rewards for GRPO: a registry, and their bounded computation. Imports no torch."""

from opensloth.rewards.build import BoundReward, build_rewards
from opensloth.rewards.describe import describe_rewards
from opensloth.rewards.failures import RewardFailed
from opensloth.rewards.registry import Reward, register_reward, reward_map
from opensloth.rewards.runner import RewardRunner
from opensloth.rewards.spec import Params, RewardPolicy, RewardSpec
from opensloth.rewards.trl_adapter import as_trl_reward_funcs

__all__ = [
    "BoundReward",
    "Params",
    "Reward",
    "RewardFailed",
    "RewardPolicy",
    "RewardRunner",
    "RewardSpec",
    "as_trl_reward_funcs",
    "build_rewards",
    "describe_rewards",
    "register_reward",
    "reward_map",
]
