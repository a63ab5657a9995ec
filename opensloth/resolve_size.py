"""The part of `resolve` that knows how much data there is: a small file must not end within a handful of steps."""

from __future__ import annotations

from dataclasses import dataclass

from opensloth.methods import Method
from opensloth.resolve_draft import Draft

LEAST_STEPS = 25
"""Optimizer steps an epoch that a job gets where its data and devices allow it."""
FEW_ROWS = 300
"""Below it rows are not packed: there is little to gain, and a packed row hides many examples in one."""
WARMUP_SHARE = 0.1
_BYTES_A_TOKEN = 4
_WHOLE_PASSES = frozenset({"kto"})
"""Methods that compare the rows of a pass with each other: passes are left out, rows are not."""
_ADAPTS = frozenset({"sft", "dpo", "orpo"}) | _WHOLE_PASSES

PACKING = "opensloth_config.sequence_packing"
SIZE, PASSES = "training_args.per_device_train_batch_size", "training_args.gradient_accumulation_steps"
WARMUP = "training_args.warmup_steps"


@dataclass(frozen=True)
class DataSize:
    """Rows and bytes of the file that is trained on."""

    rows: int
    bytes: int


def fit_size(draft: Draft, method: Method, data: DataSize, devices: int) -> None:
    """Packing, batch and warmup for so much data; what the user set, `max_steps` included, stays."""
    rows = max(1, int(data.rows * (1 - (draft.config.eval_split or 0))))
    free = not (_given(draft, SIZE) or _given(draft, PASSES)) and draft.training_args.max_steps <= 0
    packs_by_choice = _given(draft, PACKING) and draft.config.sequence_packing
    if free and method.name in _ADAPTS and not packs_by_choice:
        _fit_packing(draft, rows, data)
        _fit_batch(draft, method, _sequences(draft, rows, data), devices)
    _fit_warmup(draft, method, _sequences(draft, rows, data), devices)


def _given(draft: Draft, path: str) -> bool:
    """Whether the user set the field, and not a default of the method."""
    return draft.is_set(path) and path not in draft.why


def _sequences(draft: Draft, rows: int, data: DataSize) -> int:
    """What one epoch goes through: rows, or about so many packed ones."""
    if not draft.config.sequence_packing:
        return rows
    packed = data.bytes // _BYTES_A_TOKEN // draft.config.fast_model_args.max_seq_length
    return min(rows, max(1, packed))


def _fit_packing(draft: Draft, rows: int, data: DataSize) -> None:
    if not draft.config.sequence_packing:
        return
    if rows < FEW_ROWS:
        draft.put(PACKING, False, f"{rows} rows are too few to pack; below {FEW_ROWS} each row is one of a batch")
    elif (packed := _sequences(draft, rows, data)) < LEAST_STEPS:
        reason = f"{rows} short rows would be about {packed} packed ones, too few for {LEAST_STEPS} steps an epoch"
        draft.put(PACKING, False, reason)


def _fit_batch(draft: Draft, method: Method, sequences: int, devices: int) -> None:
    args = draft.training_args
    size, passes = args.per_device_train_batch_size, args.gradient_accumulation_steps
    wanted = max(1, sequences // (LEAST_STEPS * devices))
    if wanted >= size * passes:
        return
    kind = "packed rows" if draft.config.sequence_packing else "rows"
    reason = f"the data is about {sequences} {kind}, and an epoch should have {LEAST_STEPS} steps where it can"
    if method.name not in _WHOLE_PASSES:
        draft.put(SIZE, min(size, wanted), reason)
    draft.put(PASSES, max(1, wanted // size), reason)


def _fit_warmup(draft: Draft, method: Method, sequences: int, devices: int) -> None:
    args = draft.training_args
    if _given(draft, WARMUP) or method.name not in _ADAPTS:
        return
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    steps = args.max_steps if args.max_steps > 0 else -(-sequences // batch) * args.num_train_epochs
    if args.warmup_steps > steps * WARMUP_SHARE:
        draft.put(WARMUP, WARMUP_SHARE, f"a tenth of the steps, which are about {steps:g}")
