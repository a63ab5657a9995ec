"""Steps whose loss and metrics are means over their rows, however the rows fall into batches and onto processes."""

from __future__ import annotations

from typing import Any

import torch


class WholeSteps:
    """A mixin before a TRL trainer that computes something for each row (of ORPO: for each pair).

    Each batch of a step gets a `weight` for each of its rows: 1, or 0 for a row that was repeated only because the
    last batch of an epoch did not go round all processes. `_rows_in_step` counts the others on all processes.
    """

    accelerator: Any
    args: Any
    model: Any
    current_gradient_accumulation_steps: int
    _rows_in_step: float
    _sums: dict[str, torch.Tensor]
    _evaluated: list[dict[str, torch.Tensor]]

    @property
    def last_rows(self) -> int:
        """Rows of an epoch's last batch where some were repeated, else 0; RankTrainer knows them."""
        raise NotImplementedError

    def row_count(self, batch: Any) -> int:
        """How many rows a batch holds."""
        return len(batch["input_ids"])

    def start_step(self, batches: list[Any]) -> None:
        """What a step needs before its first batch; every process comes here once a step."""

    def row_values(self, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        """What an evaluation keeps of each row, tensors of shape (rows,)."""
        raise NotImplementedError

    def evaluation(self, rows: dict[str, torch.Tensor]) -> dict[str, float]:
        """The metrics of an evaluation, `loss` among them, from the values of all its rows."""
        raise NotImplementedError

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of a step with the weights of their rows."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        for batch in batches:
            batch["weight"] = torch.ones(self.row_count(batch), device=device)
        state = self.accelerator.gradient_state
        if batches and self.accelerator.num_processes > 1 and state.end_of_dataloader and self.last_rows:
            weight = batches[-1]["weight"]
            weight[max(self.last_rows - self.accelerator.process_index * len(weight), 0) :] = 0
        self._rows_in_step = self.over_processes(sum(batch["weight"].sum() for batch in batches)).item()
        self.start_step(batches)
        return batches, items

    def over_processes(self, value: torch.Tensor) -> torch.Tensor:
        """`value` added up over all processes."""
        summed: torch.Tensor = self.accelerator.reduce(value, reduction="sum")
        return summed

    def of_step(self, total: torch.Tensor, count: float) -> torch.Tensor:
        """What a batch adds to a mean over `count` items of the step, of which `total` is the batch's own sum.

        The trainer divides by the number of batches, and the mean over processes by theirs.
        """
        return total * (self.current_gradient_accumulation_steps * self.accelerator.num_processes / count)

    def note(self, name: str, total: torch.Tensor, count: torch.Tensor | float = 1.0) -> None:
        """Adds to the sum and the count of a metric of the training; every process notes the same names."""
        if "_sums" not in self.__dict__:
            self._sums = {}
        pair = torch.stack([total.detach().float(), torch.as_tensor(count, device=total.device).float()])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was noted since the last time, over all processes."""
        if self.model.training and self.__dict__.get("_sums"):
            sums = self.over_processes(torch.stack(list(self._sums.values()))).tolist()
            logs.update(
                {name: total / count for name, (total, count) in zip(self._sums, sums, strict=True) if count > 0}
            )
            if "rewards/chosen" in logs and "rewards/rejected" in logs:
                logs["rewards/margins"] = logs["rewards/chosen"] - logs["rewards/rejected"]
            self._sums = {}
        super().log(logs, start_time)  # type: ignore[misc]

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """Keeps the values of a batch's rows; rows that were repeated to fill a batch are left out."""
        inputs = self._prepare_inputs(inputs)  # type: ignore[attr-defined]
        with torch.no_grad(), self.compute_loss_context_manager():  # type: ignore[attr-defined]
            values = self.row_values(model, inputs)
        gathered = self.accelerator.gather_for_metrics(values)
        self._evaluated.append({name: value.float().cpu() for name, value in gathered.items()})
        return None, None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The trainer's loop, with metrics over all rows at once."""
        self._evaluated = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)  # type: ignore[misc]
        rows = {name: torch.cat([batch[name] for batch in self._evaluated]) for name in self._evaluated[0]}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.evaluation(rows).items()}
        output.metrics.update(metrics)
        return output


def mean_where(values: torch.Tensor, chosen: torch.Tensor) -> float:
    """The mean of `values` where `chosen`; NaN where none is."""
    return float(values[chosen].mean()) if bool(chosen.any()) else float("nan")
