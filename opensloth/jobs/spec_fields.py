"""Which fields a job may carry over HTTP, and for the others what to use instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from pydantic import BaseModel

from opensloth.integrations import WandbIntegration
from opensloth.opensloth_config import (
    DPOArgs,
    FastModelArgs,
    GRPOArgs,
    KTOArgs,
    LoraArgs,
    OpenSlothConfig,
    ORPOArgs,
    RewardSpec,
    TrainingArguments,
)

# Fields that a script may set and a job may not: each touches paths, network, secrets or code of the server.
_RESULTS = "results are kept as the job's artifacts, see GET /v1/jobs/{id}/artifacts"
_METRICS = "metrics are kept on the job, see GET /v1/jobs/{id}/metrics"
_RESUME = "a job resumes by itself from its newest checkpoint; submit a new job from an earlier result with model_name"
_DEVICES = "the scheduler chooses the devices; use resources.gpus"
_HUB = "a job pushes nothing to the hub; download the artifacts and push them yourself"
_PARALLEL = "how ranks work together is the service's part; use resources.gpus"
_CODE = "a job never runs code from a model's repository"
_DATA = "use dataset, the id of an uploaded file (POST /v1/files) or a dataset of the hub (org/name)"
_PRECISION = "use fast_model_args.load_in_4bit, training_args.bf16 or training_args.fp16"

REFUSED: dict[str, str] = {
    "data_cache_path": _DATA,
    "data": _DATA,
    "dataset_name": _DATA,
    "train_file": _DATA,
    "output_dir": _RESULTS,
    "overwrite_output_dir": _RESULTS,
    "logging_dir": _METRICS,
    "report_to": f"{_METRICS}; for Weights & Biases use integrations",
    "run_name": "use name",
    "resume_from_checkpoint": _RESUME,
    "save_only_model": _RESUME,
    "ignore_data_skip": _RESUME,
    "devices": _DEVICES,
    "use_cpu": _DEVICES,
    "no_cuda": _DEVICES,
    "local_rank": _DEVICES,
    "device_map": _DEVICES,
    "push_to_hub": _HUB,
    "hub_model_id": _HUB,
    "hub_token": _HUB,
    "hub_strategy": _HUB,
    "hub_private_repo": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "token": "a token does not belong in a job; store it with `opensloth secrets set` and name it as secrets.hub",
    "deepspeed": _PARALLEL,
    "fsdp": _PARALLEL,
    "fsdp_config": _PARALLEL,
    "accelerator_config": _PARALLEL,
    "parallelism_config": _PARALLEL,
    "ddp_backend": _PARALLEL,
    "ddp_find_unused_parameters": _PARALLEL,
    "dataset_num_proc": "data preparation takes the processes that the host can spare",
    "trust_remote_code": _CODE,
    "auto_mapping": _CODE,
    "torch_compile": "Unsloth compiles what it can by itself; use engine",
    "dtype": _PRECISION,
    "torch_dtype": _PRECISION,
    "warmup_ratio": "use warmup_steps: a value below 1 is a share of all steps",
    "evaluation_strategy": "use eval_strategy",
    "group_by_length": 'use train_sampling_strategy: "group_by_length"',
    "do_train": "a job always trains",
    "do_eval": "use eval_dataset or eval_split, and eval_strategy",
    "reward_funcs": "use opensloth_config.grpo_args.reward_functions",
    "reward_weights": "give each entry of reward_functions its weight",
    "use_vllm": "answers are sampled by the engine that trains",
    "packing": "use opensloth_config.sequence_packing",
    "retry_of": "the service sets it when a job is retried",
    "owner": "the key says whose job it is",
    "state": "the service sets it",
    "schema_version": "the service sets it",
}

OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
)

# The schedules, each with the parameters that `lr_scheduler_kwargs` may give it.
SCHEDULES: dict[str, frozenset[str]] = {
    "linear": frozenset(),
    "cosine": frozenset({"num_cycles"}),
    "cosine_with_restarts": frozenset({"num_cycles"}),
    "polynomial": frozenset({"lr_end", "power"}),
    "constant": frozenset(),
    "constant_with_warmup": frozenset(),
    "inverse_sqrt": frozenset({"timescale"}),
    "cosine_with_min_lr": frozenset({"num_cycles", "min_lr", "min_lr_rate"}),
    "warmup_stable_decay": frozenset({"num_decay_steps", "num_stable_steps", "min_lr_ratio", "num_cycles"}),
}

DPO_LOSSES = (
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
)

KTO_LOSSES = ("kto", "apo_zero_unpaired")

GRPO_LOSSES = ("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo")

CHOICES: dict[str, tuple[str, ...]] = {
    "training_args.optim": OPTIMIZERS,
    "training_args.lr_scheduler_type": tuple(SCHEDULES),
    "training_args.eval_strategy": ("no", "steps", "epoch"),
    "training_args.save_strategy": ("no", "steps", "epoch"),
    "training_args.train_sampling_strategy": ("random", "sequential", "group_by_length"),
    "opensloth_config.dpo_args.loss_type": DPO_LOSSES,
    "opensloth_config.kto_args.loss_type": KTO_LOSSES,
    "opensloth_config.grpo_args.loss_type": GRPO_LOSSES,
}


# What people write for a field, where spelling alone would not find it.
SHORT_NAMES: dict[str, str] = {
    "lr": "training_args.learning_rate",
    "epochs": "training_args.num_train_epochs",
    "steps": "training_args.max_steps",
    "batch_size": "training_args.per_device_train_batch_size",
    "model": "opensloth_config.fast_model_args.model_name",
    "base_model": "opensloth_config.fast_model_args.model_name",
    "method": "opensloth_config.training_type",
    "training_file": "dataset",
    "validation_file": "eval_dataset",
    "scheduler": "training_args.lr_scheduler_type",
    "optimizer": "training_args.optim",
    "timeout": "time_limit",
    "rewards": "opensloth_config.grpo_args.reward_functions",
    "lambda": "opensloth_config.orpo_args.beta",
    "kl_coef": "opensloth_config.grpo_args.beta",
    "max_new_tokens": "opensloth_config.grpo_args.max_completion_length",
}


def _open_fields(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(model.model_fields) - REFUSED.keys()


# The objects inside a job and the fields that each may carry; `[]` stands for the entries of a list.
ALLOWED: Mapping[str, frozenset[str]] = {
    "": frozenset(
        {
            "name",
            "dataset",
            "eval_dataset",
            "opensloth_config",
            "training_args",
            "secrets",
            "integrations",
            "resources",
            "time_limit",
            "priority",
            "max_retries",
            "metadata",
            "depends_on",
        }
    ),
    "opensloth_config": _open_fields(OpenSlothConfig),
    "opensloth_config.fast_model_args": _open_fields(FastModelArgs),
    "opensloth_config.lora_args": _open_fields(LoraArgs),
    "opensloth_config.dpo_args": _open_fields(DPOArgs),
    "opensloth_config.kto_args": _open_fields(KTOArgs),
    "opensloth_config.orpo_args": _open_fields(ORPOArgs),
    "opensloth_config.grpo_args": _open_fields(GRPOArgs),
    "opensloth_config.grpo_args.reward_functions[]": _open_fields(RewardSpec),
    "training_args": _open_fields(TrainingArguments),
    "secrets": frozenset({"hub", "wandb"}),
    "integrations[]": _open_fields(WandbIntegration),
    "resources": frozenset({"gpus", "memory", "exclusive"}),
}


def explain_unknown(parent: str, name: str) -> tuple[str, str]:
    """Message and code for a field that `parent` may not carry: the alternative, its real place or the nearest name."""
    if name in REFUSED:
        return f"not accepted over HTTP: {REFUSED[name]}", "not_accepted"
    elsewhere = [_join(where, name) for where, names in ALLOWED.items() if name in names and where != parent]
    if elsewhere:
        return f"unknown here; it belongs at {' or '.join(elsewhere)}", "unknown_field"
    if name in SHORT_NAMES:
        return f"unknown; did you mean {SHORT_NAMES[name]}?", "unknown_field"
    near = difflib.get_close_matches(name[:64], ALLOWED[parent], n=1)
    if near:
        return f"unknown; did you mean {near[0]}?", "unknown_field"
    every = {field: where for where, names in ALLOWED.items() for field in names}
    near = difflib.get_close_matches(name[:64], every, n=1)
    if near:
        return f"unknown; did you mean {_join(every[near[0]], near[0])}?", "unknown_field"
    return f"unknown; known here are {', '.join(sorted(ALLOWED[parent]))}", "unknown_field"


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
