"""Weights are put in shards where that is asked for or needed, and a job that cannot be is told why."""

from __future__ import annotations

from typing import Any

import pytest

from opensloth.errors import InvalidInput
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, Resolved, resolve
from opensloth.resolve_sharding import ELEMENTWISE, with_sharding

PAIR = DeviceFacts(kind="cuda", bf16=True, has_unsloth=True, has_bitsandbytes=True, count=2)
ALONE = DeviceFacts(kind="cuda", bf16=True, has_unsloth=True, has_bitsandbytes=True)


def resolved(
    device: DeviceFacts = PAIR, arguments: dict[str, Any] | None = None, *, full: bool = True, **config: Any
) -> Resolved:
    model = {"model_name": "m", "full_finetuning": full}
    return resolve(OpenSlothConfig(fast_model_args=model, **config), TrainingArguments(**(arguments or {})), device)  # type: ignore[arg-type]


def test_each_device_holds_the_whole_unless_told_otherwise() -> None:
    assert resolved().opensloth_config.shard_weights is False
    assert resolved(shard_weights=True).opensloth_config.shard_weights is True
    assert resolved(ALONE, shard_weights=True).opensloth_config.shard_weights is False


def test_shards_get_an_optimizer_that_can_step_them() -> None:
    assert resolved().training_args.optim == "adamw_8bit"
    found = resolved(shard_weights=True)
    assert found.training_args.optim == "adamw_torch_fused"
    assert "cannot step shards" in found.why["training_args.optim"]
    for optimizer in ELEMENTWISE:
        assert resolved(arguments={"optim": optimizer}, shard_weights=True).training_args.optim == optimizer
    with pytest.raises(InvalidInput) as refused:
        resolved(arguments={"optim": "adafactor"}, shard_weights=True)
    assert refused.value.fields[0].path == "training_args.optim"


@pytest.mark.parametrize(
    ("config", "arguments", "told"),
    [
        ({"full": False}, {}, "only full fine-tuning"),
        ({"engine": "unsloth"}, {}, "Unsloth does not"),
        ({"training_type": "dpo"}, {}, "only sft is sharded; dpo"),
        ({}, {"fp16": True}, "use bf16"),
    ],
)
def test_what_cannot_be_sharded_is_refused_by_the_field(
    config: dict[str, Any], arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        resolved(arguments=arguments, shard_weights=True, **config)
    (field,) = refused.value.fields
    assert field.path == "opensloth_config.shard_weights"
    assert told in field.message


def test_a_job_that_needs_it_is_put_in_shards_unless_the_user_decided() -> None:
    needed = with_sharding(resolved(), "it does not fit")
    assert needed is not None
    assert (needed.opensloth_config.shard_weights, needed.training_args.optim) == (True, "adamw_torch_fused")
    assert needed.why["opensloth_config.shard_weights"] == "it does not fit"
    again = resolve(needed.opensloth_config, needed.training_args, PAIR)
    assert (again.opensloth_config, again.training_args) == (needed.opensloth_config, needed.training_args)
    for other in (resolved(shard_weights=False), resolved(full=False), resolved(training_type="dpo")):
        assert with_sharding(other, "it does not fit") is None
    assert with_sharding(resolved(arguments={"optim": "adafactor"}), "it does not fit") is None
