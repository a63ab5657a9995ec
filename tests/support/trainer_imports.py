"""What the server behind `TrainerHost` imports before it forks; computes nothing, so that forks start clean."""

import opensloth.training.callbacks
import opensloth.training.checkpoints
import opensloth.training.methods.dpo
import opensloth.training.methods.grpo
import opensloth.training.methods.kto
import opensloth.training.methods.orpo
import opensloth.training.methods.sft
import opensloth.training.results  # noqa: F401
