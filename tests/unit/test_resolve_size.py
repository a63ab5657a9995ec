"""How the size of a file decides packing, batch and warmup where the user did not."""

import math

import pytest

from opensloth.opensloth_config import FastModelArgs, KTOArgs, OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, resolve
from opensloth.resolve_size import DataSize

CPU = DeviceFacts("cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False)
SIZE, PASSES = "training_args.per_device_train_batch_size", "training_args.gradient_accumulation_steps"
PACKING, WARMUP = "opensloth_config.sequence_packing", "training_args.warmup_steps"


def resolved_for(rows, row_bytes=240, *, arguments=None, device=CPU, **fields):
    config = OpenSlothConfig(fast_model_args=FastModelArgs(model_name="tiny", max_seq_length=2048), **fields)
    data = DataSize(rows, rows * row_bytes)
    return resolve(config, TrainingArguments(**(arguments or {})), device, data=data)


def batch_of(resolved):
    return resolved.training_args.per_device_train_batch_size * resolved.training_args.gradient_accumulation_steps


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (10, 1), (40, 1), (50, 2), (299, 8), (400, 16)])
def test_short_rows_of_a_small_file_are_not_packed_and_an_epoch_has_25_steps_where_it_can(rows, batch):
    resolved = resolved_for(rows)
    assert not resolved.opensloth_config.sequence_packing
    assert batch_of(resolved) == batch
    assert math.ceil(rows / batch) >= min(rows, 25)
    assert {PACKING, SIZE} <= resolved.why.keys()


def test_rows_of_a_file_in_between_are_packed_into_smaller_batches():
    resolved = resolved_for(5000)
    packed = 5000 * 240 // 4 // 2048
    assert resolved.opensloth_config.sequence_packing
    assert 25 <= packed / batch_of(resolved) < 50
    assert "packed rows" in resolved.why[SIZE]


def test_a_large_file_has_the_defaults_of_the_method():
    resolved = resolved_for(1_000_000)
    assert resolved.opensloth_config.sequence_packing
    assert (batch_of(resolved), resolved.training_args.warmup_steps) == (32, 10)
    assert resolved.why[SIZE] == "default of sft"
    assert not {PASSES, WARMUP} & resolved.why.keys()


@pytest.mark.parametrize(
    "arguments",
    [{"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 4}, {"max_steps": 60}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_batch_or_a_number_of_steps_that_the_user_gave_settles_batch_and_packing(arguments):
    resolved = resolved_for(40, arguments=arguments)
    assert (batch_of(resolved), resolved.opensloth_config.sequence_packing) == (32, True)


def test_packing_that_the_user_chose_stays_with_its_batch():
    resolved = resolved_for(40, sequence_packing=True)
    assert (batch_of(resolved), resolved.opensloth_config.sequence_packing) == (32, True)
    unpacked = resolved_for(40, sequence_packing=False)
    assert batch_of(unpacked) == 1
    assert PACKING not in unpacked.why


def test_warmup_is_at_most_a_tenth_of_the_steps_unless_the_user_set_it():
    assert resolved_for(20).training_args.warmup_steps == 0.1
    assert resolved_for(40).training_args.warmup_steps == 10, "120 steps"
    assert resolved_for(40, arguments={"max_steps": 60}).training_args.warmup_steps == 0.1
    assert resolved_for(20, arguments={"warmup_steps": 10}).training_args.warmup_steps == 10


def test_devices_share_the_batch_and_rows_of_an_evaluation_do_not_count():
    two = DeviceFacts("cuda", bf16=True, has_unsloth=False, has_bitsandbytes=False, count=2)
    assert batch_of(resolved_for(200, device=two)) == 4
    assert batch_of(resolved_for(200, eval_split=0.5)) == 4


def test_a_method_that_compares_the_rows_of_a_pass_keeps_its_passes_whole():
    resolved = resolved_for(40, training_type="kto", kto_args=KTOArgs())
    assert resolved.training_args.per_device_train_batch_size == 4
    assert resolved.training_args.gradient_accumulation_steps == 1
    assert batch_of(resolved_for(40, training_type="dpo")) == 1


def test_resolving_again_changes_nothing():
    once = resolved_for(40)
    again = resolve(once.opensloth_config, once.training_args, CPU, data=DataSize(40, 9600))
    assert again.training_args == once.training_args
    assert again.opensloth_config == once.opensloth_config
