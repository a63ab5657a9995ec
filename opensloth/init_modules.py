"""Model, tokenizer, adapter and process group of one rank.

Nothing slow is imported at the top: Unsloth must come before transformers, TRL and PEFT, and whether it comes at all
is only known when the config is.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.resolve import DeviceFacts, Resolved, resolve

logger = logging.getLogger(__name__)

PASSED_ON = frozenset({"dtype", "attn_implementation", "revision", "token"})
"""Further fields of FastModelArgs that transformers' `from_pretrained` gets; Unsloth gets all but code to run."""

COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Unsloth takes it out of the environment, for a folder that no other process finds."""


def device_facts() -> DeviceFacts:
    """What this process can train on; imports torch."""
    import torch

    cuda = torch.cuda.is_available()
    return DeviceFacts(
        kind="cuda" if cuda else "cpu",
        bf16=cuda and torch.cuda.is_bf16_supported(),
        has_unsloth=importlib.util.find_spec("unsloth") is not None,
        has_bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
        count=int(os.environ.get("WORLD_SIZE", "1")),
    )


def resolve_here(
    opensloth_config: OpenSlothConfig, training_args: TrainingArguments | None = None, *, has_eval_dataset: bool = False
) -> Resolved:
    """Resolves a config for this process, as the service does for the host that it places a job on."""
    return resolve(
        opensloth_config,
        training_args or TrainingArguments(),
        device_facts(),
        adapter_lora=adapter_config(opensloth_config.pretrained_lora),
        has_eval_dataset=has_eval_dataset,
    )


def adapter_config(adapter: str | None) -> dict[str, Any] | None:
    """The `adapter_config.json` of a local adapter; raises FileNotFoundError where there is none."""
    if adapter is None:
        return None
    config: dict[str, Any] = json.loads((Path(adapter) / "adapter_config.json").read_text())
    return config


def init_model_and_tokenizer(
    opensloth_config: OpenSlothConfig, training_args: TrainingArguments | None = None
) -> tuple[Any, Any]:
    """The model with its adapter (or all weights trainable) and the tokenizer, on this rank's device.

    Weights come from safetensors alone and no code of a model is run. A local directory is read without the network.
    Raises OSError where the model is not found and ValueError where it is no causal language model.
    """
    return load_resolved(resolve_here(opensloth_config, training_args))


def load_resolved(resolved: Resolved) -> tuple[Any, Any]:
    """As `init_model_and_tokenizer`, for a config that has been resolved."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    name = resolved.opensloth_config.fast_model_args.model_name
    if os.path.isabs(name) and not os.path.isdir(name):
        raise FileNotFoundError(f"there is no model at {name}")
    if resolved.engine == "unsloth":
        return _load_unsloth(resolved)
    config = resolved.opensloth_config
    model = load_base_model(resolved)
    tokenizer = _load_tokenizer(config)
    return attach_adapter(model, config), tokenizer


def load_base_model(resolved: Resolved) -> Any:
    """The base model by transformers: float32 on a CPU and for full fine-tuning, else what the GPU computes in.

    What will be sharded is left on the host, in the type that it is stored in.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = resolved.opensloth_config
    options = _source_options(config)
    if "dtype" not in options:
        options["dtype"] = _compute_dtype(resolved)
        if config.fast_model_args.full_finetuning:
            # Updates of a small learning rate vanish in 16 bits; what is sharded goes to 32 bits with its part.
            options["dtype"] = "auto" if config.shard_weights else torch.float32
    if resolved.device == "cuda" and not config.shard_weights:
        options["device_map"] = {"": torch.cuda.current_device()}
    quantization = _quantization(resolved)
    if quantization is not None:
        options["quantization_config"] = quantization
    model = AutoModelForCausalLM.from_pretrained(
        config.fast_model_args.model_name, use_safetensors=True, trust_remote_code=False, **options
    )
    if quantization is not None:
        # Not PEFT's prepare_model_for_kbit_training: it puts norms and embeddings, and with them all that flows
        # between the layers, into 32 bits, which costs twice the memory traffic.
        model.requires_grad_(False)
        model.enable_input_require_grads()
    return model


def attach_adapter(model: Any, config: OpenSlothConfig) -> Any:
    """`model` with the LoRA adapter that the config asks for: a new one, or one that training goes on from.

    A model that has an adapter already, and one that is trained in full, is returned as it is.
    """
    import peft
    import torch

    if config.fast_model_args.full_finetuning or isinstance(model, peft.PeftModel):
        return model
    if config.pretrained_lora is not None:
        model = peft.PeftModel.from_pretrained(model, config.pretrained_lora, is_trainable=True)
        # The adapter names its base as people know it; PEFT would look that name up on the hub with every save.
        model.peft_config["default"].base_model_name_or_path = config.fast_model_args.model_name
        return model
    assert config.lora_args is not None
    torch.manual_seed(config.lora_args.random_state)
    return peft.get_peft_model(model, lora_config(config))


def lora_config(config: OpenSlothConfig) -> Any:
    """PEFT's LoraConfig of the config's `lora_args`; further fields of it go on to PEFT."""
    import peft

    assert config.lora_args is not None
    return peft.LoraConfig(task_type="CAUSAL_LM", **config.lora_args.model_dump(exclude={"random_state"}))


def import_engine(engine: str) -> None:
    """The engine's own slow imports. Unsloth must come before transformers, TRL and PEFT; what it does to the
    environment's folder for compiled graphs is undone."""
    if engine != "unsloth":
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers.trainer  # noqa: F401

        return
    kept = os.environ.get(COMPILED_VARIABLE)
    import unsloth  # noqa: F401

    if kept is not None:
        os.environ[COMPILED_VARIABLE] = kept


def _load_unsloth(resolved: Resolved) -> tuple[Any, Any]:
    import_engine("unsloth")
    from unsloth import FastLanguageModel

    config = resolved.opensloth_config
    arguments = config.fast_model_args.model_dump(exclude={"use_gradient_checkpointing", "trust_remote_code"})
    model, tokenizer = FastLanguageModel.from_pretrained(**arguments, trust_remote_code=False)
    _ready_tokenizer(tokenizer)
    if config.fast_model_args.full_finetuning:
        return model, tokenizer
    assert config.lora_args is not None
    model = FastLanguageModel.get_peft_model(
        model,
        use_gradient_checkpointing=config.fast_model_args.use_gradient_checkpointing,
        max_seq_length=config.fast_model_args.max_seq_length,
        **config.lora_args.model_dump(),
    )
    if config.pretrained_lora is not None:
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(config.pretrained_lora, device="cpu"))
    return model, tokenizer


def _load_tokenizer(config: OpenSlothConfig) -> Any:
    from transformers import AutoTokenizer

    options = {k: v for k, v in _source_options(config).items() if k not in ("dtype", "attn_implementation")}
    tokenizer = AutoTokenizer.from_pretrained(
        config.fast_model_args.model_name, trust_remote_code=False, padding_side="right", **options
    )
    _ready_tokenizer(tokenizer)
    return tokenizer


def _ready_tokenizer(tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _source_options(config: OpenSlothConfig) -> dict[str, Any]:
    """Where and in which form the model is taken from; the network is for hub ids alone."""
    further = config.fast_model_args.model_extra or {}
    for name in further.keys() - PASSED_ON:
        logger.warning("fast_model_args.%s means nothing to the transformers engine and is left out", name)
    options = {name: value for name, value in further.items() if name in PASSED_ON and value is not None}
    if os.path.isdir(config.fast_model_args.model_name):
        options["local_files_only"] = True
    return options


def _compute_dtype(resolved: Resolved) -> Any:
    import torch

    if resolved.device == "cpu":
        return torch.float32
    return torch.float16 if resolved.training_args.fp16 else torch.bfloat16


def _quantization(resolved: Resolved) -> Any:
    """bitsandbytes' settings for a base in 4 bits (NF4, QLoRA, arXiv:2305.14314) or 8 bits; None for neither."""
    args = resolved.opensloth_config.fast_model_args
    if not (args.load_in_4bit or args.load_in_8bit):
        return None
    from transformers import BitsAndBytesConfig

    if args.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_compute_dtype(resolved),
    )


@dataclass(frozen=True)
class Rank:
    """Which process of a job this is; a job of one process has no process group."""

    index: int = 0
    local: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes records, checkpoints and results."""
        return self.index == 0


def rank_from_environment() -> Rank:
    """The rank that RANK, LOCAL_RANK and WORLD_SIZE name."""
    get = os.environ.get
    return Rank(int(get("RANK", "0")), int(get("LOCAL_RANK", "0")), int(get("WORLD_SIZE", "1")))


def init_process_group(rank: Rank, rendezvous: Path, device: str, timeout_s: float = 600.0) -> Any:
    """Joins the ranks of a job into one process group and returns its store; None for a job of one process.

    Rank 0 makes the TCPStore on a free port and publishes the port in the file `rendezvous`; the others wait for
    that file. Raises TimeoutError where a rank does not come within `timeout_s` seconds.
    """
    import torch
    import torch.distributed as dist

    if rank.count == 1:
        # accelerate takes these variables for a process group, even of one.
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
        return None
    timeout = timedelta(seconds=timeout_s)
    if rank.is_main:
        store = dist.TCPStore("127.0.0.1", 0, rank.count, is_master=True, timeout=timeout, wait_for_workers=False)
        aside = rendezvous.with_suffix(".new")
        aside.write_text(str(store.port))
        aside.rename(rendezvous)
    else:
        port = _wait_for_port(rendezvous, timeout_s)
        store = dist.TCPStore("127.0.0.1", port, rank.count, is_master=False, timeout=timeout)
    os.environ["LOCAL_WORLD_SIZE"] = str(rank.count)
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    if device == "cuda":
        torch.cuda.set_device(rank.local)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", store), rank=rank.index, world_size=rank.count, timeout=timeout
    )
    return store


def _wait_for_port(rendezvous: Path, timeout_s: float) -> int:
    import time

    deadline = time.monotonic() + timeout_s
    while not rendezvous.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 did not publish its port within {timeout_s:.0f} s")
        time.sleep(0.02)
    return int(rendezvous.read_text())
