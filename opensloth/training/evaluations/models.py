"""Base and result, one after the other, from one load where the result is an adapter."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opensloth.datasets.encode import encode_answers, encode_dpo
from opensloth.training.evaluations.spec import EvaluationRun
from opensloth.training.exports import check

TOKENS_AT_ONCE = 16_384
"""Of a batch, prompts and answers padded to the longest; halved where memory does not hold it."""
LOGITS_AT_ONCE = 2**27
"""Of a batch whose probabilities are looked at, tokens x vocabulary; 4 bytes each, several times."""
Told = Callable[[int], None]
"""Hears how many rows were done."""


class Pair:
    """Both models for the same rows. `base` and `result` are the names under which they are asked."""

    def __init__(self, spec: EvaluationRun, token: str | None) -> None:
        from transformers import AutoTokenizer

        self._spec = spec
        self._model_folder = _folder(spec.model, token)
        adapter = Path(spec.adapter) if spec.adapter else None
        if adapter is None and spec.base_model is not None:
            self._base_folder = _folder(spec.base_model, token)
        origin = adapter if adapter and (adapter / "tokenizer_config.json").exists() else self._model_folder
        self.tokenizer = AutoTokenizer.from_pretrained(origin, trust_remote_code=False, local_files_only=True)
        self._adapter = adapter
        self._loaded: tuple[str, Any] | None = None

    def ask(self, side: str, rows: Sequence[dict[str, Any]], told: Told) -> list[str]:
        """The answers of `base` or `result` to the rows' prompts; sampled if the temperature is above 0."""
        prompts = [ids for ids, _ in encode_answers(rows, self.tokenizer, ())]
        return self._with(side, lambda model: generate(model, self.tokenizer, prompts, self._spec, told))

    def log_probabilities(
        self, side: str, rows: Sequence[dict[str, Any]], told: Told
    ) -> list[tuple[float, float, int, int]]:
        """Of each row the log-probability of the chosen and the rejected answer, and how many tokens each has."""
        pairs = encode_dpo(rows, self.tokenizer)
        answers = [(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
        found = self._with(side, lambda model: answer_log_probabilities(model, answers, told))
        return [
            (found[2 * i], found[2 * i + 1], len(pair.chosen_ids), len(pair.rejected_ids))
            for i, pair in enumerate(pairs)
        ]

    def _with(self, side: str, use: Callable[[Any], Any]) -> Any:
        if self._adapter is None:
            return use(self._whole(side))
        model = self._whole("adapted")
        if side == "result":
            return use(model)
        with model.disable_adapter():
            return use(model)

    def _whole(self, name: str) -> Any:
        """The model of that name, the one before it gone."""
        if self._loaded is not None and self._loaded[0] == name:
            return self._loaded[1]
        self._loaded = None
        gc.collect()
        _empty_cache()
        folder = self._base_folder if name == "base" else self._model_folder
        model = check.load(folder, self._spec.device)
        if self._adapter is not None:
            model = check.with_adapter(model, self._adapter)
        self._loaded = (name, model.eval())
        return model


def generate(model: Any, tokenizer: Any, prompts: Sequence[list[int]], spec: EvaluationRun, told: Told) -> list[str]:
    """An answer to each prompt, in order; prompts of like length are answered together."""
    import torch

    def batch(places: Sequence[int]) -> list[str]:
        width = max(len(prompts[place]) for place in places)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        ids = torch.full((len(places), width), pad)
        mask = torch.zeros_like(ids)
        for row, place in enumerate(places):
            length = len(prompts[place])
            ids[row, width - length :] = torch.tensor(prompts[place])
            mask[row, width - length :] = 1
        sampled: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if spec.temperature > 0:
            sampled |= {"do_sample": True, "temperature": spec.temperature, "top_p": 1.0, "top_k": 0}
            torch.manual_seed(spec.seed + places[0])
        with torch.no_grad():
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=spec.max_completion_tokens,
                pad_token_id=pad,
                eos_token_id=_ends(model, tokenizer),
                **sampled,
            )
        return [str(text) for text in tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)]

    sizes = [len(prompt) + spec.max_completion_tokens for prompt in prompts]
    return _in_batches(sizes, batch, told, TOKENS_AT_ONCE)


def answer_log_probabilities(model: Any, answers: Sequence[tuple[list[int], list[int]]], told: Told) -> list[float]:
    """log p(answer | prompt), in nats, the sum over the answer's tokens, of each (prompt, answer) of token ids."""
    import torch

    def batch(places: Sequence[int]) -> list[float]:
        rows = [answers[place] for place in places]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask, wanted = torch.zeros_like(ids), torch.zeros((len(rows), width), dtype=torch.bool)
        for row, (prompt, answer) in enumerate(rows):
            length = len(prompt) + len(answer)
            ids[row, :length] = torch.tensor([*prompt, *answer])
            mask[row, :length] = 1
            wanted[row, max(len(prompt), 1) : length] = True
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1]
            targets = ids[:, 1:].to(model.device)
            losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        sums = -(losses * wanted[:, 1:].to(model.device)).sum(dim=1)
        return [float(value) for value in sums.cpu()]

    sizes = [len(prompt) + len(answer) for prompt, answer in answers]
    return _in_batches(sizes, batch, told, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)


def _in_batches(sizes: Sequence[int], work: Callable[[Sequence[int]], list[Any]], told: Told, budget: int) -> list[Any]:
    """`work` on all places, the long ones first, together up to `budget` tokens and as memory holds them."""
    import torch

    order = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    done: dict[int, Any] = {}
    while order:
        count = max(1, min(len(order), budget // max(1, sizes[order[0]])))
        try:
            done |= dict(zip(order[:count], work(order[:count]), strict=True))
        except torch.cuda.OutOfMemoryError:
            if count == 1:
                raise
            budget = sizes[order[0]] * (count // 2)
            _empty_cache()
            continue
        order = order[count:]
        told(len(done))
    return [done[place] for place in range(len(sizes))]


def _ends(model: Any, tokenizer: Any) -> list[int] | None:
    """Tokens that end an answer: the model's own, and the one that ends a turn in training."""
    own = model.generation_config.eos_token_id
    ends = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in ends if token is not None)) or None


def _folder(model: str, token: str | None) -> Path:
    """A model as a local folder; one of the hub is fetched first."""
    if Path(model).is_absolute():
        if not Path(model).is_dir():
            raise FileNotFoundError(f"there is no model at {model}")
        return Path(model)
    from opensloth.models.acquire import fetch_model

    return Path(fetch_model(model, token, None))


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
