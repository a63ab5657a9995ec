"""The earlier name of `opensloth.scripts.opensloth_trainer`, for scripts that import it."""

from opensloth.scripts.opensloth_trainer import run_mp_training, setup_envs, train_on_single_gpu

__all__ = ["run_mp_training", "setup_envs", "train_on_single_gpu"]
