"""What GRPO's trainer does beside TRL's: prompts kept whole, rewards that fail by name, exact resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from trl.trainer.utils import RepeatSampler

from opensloth.rewards import BoundReward, RewardFailed, RewardRunner
from opensloth.rewards.length import TOKEN_COUNT
from opensloth.rewards.trl_adapter import text_of


class EpochSampler(RepeatSampler):
    """TRL's order of prompts, which depends on the epoch and not on how many came before it in this process."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + self.epoch)
        return iter(super().__iter__())


class Rollouts:
    """A mixin before TRL's GRPOTrainer."""

    accelerator: Any
    args: Any
    longest_prompt: int | None = None
    """Tokens of a prompt that answers are sampled to, its last ones; None for all."""
    rewards: Sequence[BoundReward]
    runner: RewardRunner
    _rows: list[dict[str, Any]]
    _step: int
    _buffered_inputs: Any

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        theirs = super()._get_train_sampler(dataset)  # type: ignore[misc]
        return EpochSampler(
            theirs.data_source,
            theirs.mini_repeat_count,
            theirs.batch_size,
            theirs.repeat_count,
            theirs.shuffle,
            self.args.data_seed,
        )

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._rows = [json.loads(row["row"]) for row in inputs]
        return super()._generate_and_score_completions([{"prompt": row["prompt"]} for row in self._rows])  # type: ignore[misc]

    def _tokenize_prompts(self, prompts: Any) -> Any:
        ids, *others = super()._tokenize_prompts(prompts)  # type: ignore[misc]
        longest = self.longest_prompt
        return ([some[-longest:] for some in ids] if longest else ids, *others)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        """The scores of all processes' answers, of shape (answers, rewards); a failure ends all of them together."""
        answers = [text_of(completion) for completion in completions]
        rows = [row | {TOKEN_COUNT: len(ids)} for row, ids in zip(self._rows, completion_ids_list, strict=True)]
        scores: list[list[float]] = []
        failure: RewardFailed | None = None
        try:
            scores = [self.runner.score(reward, answers, rows) for reward in self.rewards]
        except RewardFailed as error:
            failure = error
        self._fail_together(failure)
        local = torch.tensor(scores, dtype=torch.float32, device=self.accelerator.device)
        return self.accelerator.gather(local.T.contiguous())

    def _fail_together(self, failure: RewardFailed | None) -> None:
        own = failure and {
            "name": failure.name,
            "index": failure.index,
            "why": failure.why,
            "row": failure.row,
            "hint": failure.hint,
        }
        first = next((some for some in gather_object([own]) if some is not None), None)
        if first is not None:
            raise RewardFailed(**first) from failure

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Keeps the answers that are still to be trained on, where a checkpoint comes between two samplings."""
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        between = self._step % (self.args.steps_per_generation * self.args.num_iterations) != 0
        folder = os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")  # type: ignore[attr-defined]
        state = {"step": self._step, "inputs": self._buffered_inputs if between else None}
        torch.save(state, os.path.join(folder, self._rollouts_name))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            path = os.path.join(checkpoint, self._rollouts_name)
            state = torch.load(path, map_location=str(self.args.device.type), weights_only=True)
            self._step, self._buffered_inputs = state["step"], state["inputs"]

    @property
    def _rollouts_name(self) -> str:
        return f"rollouts-{self.accelerator.process_index}.pt"
