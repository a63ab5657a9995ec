"""The example bodies that /docs shows."""

from __future__ import annotations

from typing import Any

JOB_EXAMPLES: dict[str, Any] = {
    "smallest": {
        "summary": "SFT with every default",
        "value": {
            "dataset": "file-0123456789abcdef01234567",
            "opensloth_config": {"fast_model_args": {"model_name": "smollm2-135m"}},
        },
    },
    "sft": {
        "summary": "SFT with an evaluation set",
        "value": {
            "name": "support-answers",
            "dataset": "file-0123456789abcdef01234567",
            "eval_dataset": "file-89abcdef0123456701234567",
            "opensloth_config": {
                "training_type": "sft",
                "fast_model_args": {"model_name": "smollm2-135m", "max_seq_length": 1024},
                "lora_args": {"r": 16, "lora_alpha": 16},
            },
            "training_args": {"learning_rate": 2e-4, "num_train_epochs": 1, "per_device_train_batch_size": 8},
            "metadata": {"team": "support"},
        },
    },
    "hub": {
        "summary": "SFT on a dataset of the hub and a gated model, with a token that is stored as the secret `hf`",
        "value": {
            "dataset": "trl-lib/Capybara",
            "eval_dataset": "trl-lib/Capybara[test]",
            "opensloth_config": {"fast_model_args": {"model_name": "meta-llama/Llama-3.2-1B-Instruct"}},
            "secrets": {"hub": "hf"},
        },
    },
    "dpo": {
        "summary": "DPO on the result of an earlier job",
        "value": {
            "name": "support-tone",
            "dataset": "file-0123456789abcdef01234567",
            "opensloth_config": {
                "training_type": "dpo",
                "fast_model_args": {"model_name": "ftjob-0123456789abcdef01234567", "max_seq_length": 1024},
                "dpo_args": {"beta": 0.1},
            },
            "training_args": {"learning_rate": 5e-6, "num_train_epochs": 1, "per_device_train_batch_size": 2},
            "resources": {"gpus": 1},
            "time_limit": "2h",
            "priority": "normal",
            "max_retries": 2,
            "metadata": {},
        },
    },
    "kto": {
        "summary": "KTO on thumbs up and thumbs down",
        "value": {
            "name": "support-feedback",
            "dataset": "file-0123456789abcdef01234567",
            "opensloth_config": {
                "training_type": "kto",
                "fast_model_args": {"model_name": "ftjob-0123456789abcdef01234567", "max_seq_length": 1024},
                "kto_args": {"beta": 0.1},
                "eval_split": 0.05,
            },
        },
    },
    "orpo": {
        "summary": "ORPO from a base model",
        "value": {
            "name": "support-odds",
            "dataset": "file-0123456789abcdef01234567",
            "opensloth_config": {
                "training_type": "orpo",
                "fast_model_args": {"model_name": "smollm2-135m", "max_seq_length": 1024},
                "orpo_args": {"beta": 0.1},
            },
        },
    },
    "grpo": {
        "summary": "GRPO with two rewards",
        "value": {
            "name": "sums",
            "dataset": "file-0123456789abcdef01234567",
            "opensloth_config": {
                "training_type": "grpo",
                "fast_model_args": {"model_name": "smollm2-135m", "max_seq_length": 1024},
                "grpo_args": {
                    "num_generations": 8,
                    "max_completion_length": 256,
                    "reward_functions": [
                        "numeric_answer",
                        {"name": "length", "weight": 0.2, "params": {"unit": "words", "max": 100}},
                    ],
                },
            },
        },
    },
}

ESTIMATE_EXAMPLE: dict[str, Any] = {
    "object": "estimate",
    "basis": "estimated",
    "memory_bytes": 7_381_975_040,
    "peak_bytes": None,
    "parts": {
        "weights": 2_471_628_800,
        "adapter": 45_088_768,
        "gradients": 45_088_768,
        "optimizer": 23_671_603,
        "reference": 0,
        "context": 838_860_800,
        "activations": 2_233_466_880,
        "logits": 790_888_448,
        "generation": 0,
        "step": 0,
        "total": 6_448_694_067,
    },
    "least_bytes": 6_448_694_067,
    "assumed": {
        "engine": "transformers",
        "device": "cuda",
        "precision": "16bit",
        "rows": 4,
        "tokens": 2048,
        "checkpointing": "layers",
        "optimizer": "adamw_8bit",
        "trained_parameters": 11_272_192,
    },
    "disk": {
        "checkpoint": 85_537_587,
        "checkpoints": 256_612_761,
        "result": 61_865_984,
        "exports": {"merged_16bit": 2_488_406_016, "q8_0": 1_329_830_016, "adapter": 61_865_984},
    },
    "duration": {"steps": 300, "start_s": 31.0, "step_s": 2.1, "expected_s": 661.0},
    "devices": 1,
    "fits": [
        {
            "device": "GPU-5e1c3b2a",
            "host": "box",
            "memory_bytes": 85_520_809_984,
            "alone": True,
            "shared": True,
            "now": True,
        }
    ],
    "placeable": True,
    "notes": [],
    "queue": {"position": 1, "waiting_for": "the next planning round", "expected_start": "2026-11-22T14:20:00Z"},
}

PULL_EXAMPLES: dict[str, Any] = {
    "plain": {"summary": "The training split", "value": {"dataset": "trl-lib/Capybara"}},
    "part": {"summary": "A configuration, a split", "value": {"dataset": "openai/gsm8k:main[test]"}},
    "gated": {
        "summary": "A gated one at a revision, with a token that is stored as the secret `hf`",
        "value": {"dataset": "my-team/private@v2", "secret": "hf"},
    },
}

MODEL_EXAMPLES: dict[str, Any] = {
    "known": {"summary": "A model known by a short name", "value": {"id": "smollm2-135m"}},
    "hub": {"summary": "A model of the hub", "value": {"id": "qwen3-0.6b", "source": "Qwen/Qwen3-0.6B"}},
    "gated": {
        "summary": "A gated model of the hub, with a token that is stored as the secret `hf`",
        "value": {"id": "llama-3.2-1b", "source": "meta-llama/Llama-3.2-1B-Instruct", "secret": "hf"},
    },
    "directory": {"summary": "A directory on the server", "value": {"id": "ours", "source": "/models/ours"}},
    "alias": {
        "summary": "Another name, under which scripts written for OpenAI find a model",
        "value": {"id": "gpt-4o-mini-2024-07-18", "alias_of": "smollm2-135m"},
    },
}

EXPORT_EXAMPLES: dict[str, Any] = {
    "merged": {"summary": "One checkpoint, base and adapter in one", "value": {"format": "merged_16bit"}},
    "gguf": {"summary": "For llama.cpp and its kin", "value": {"format": "gguf", "quantization": "q8_0"}},
    "push": {
        "summary": "The adapter, pushed to the hub with a token that is stored as the secret `hf`",
        "value": {
            "format": "adapter",
            "push_to_hub": {"repo": "my-team/support-tone", "private": True, "secret": "hf"},
        },
    },
}

KEY_EXAMPLES: dict[str, Any] = {
    "member": {"summary": "A key for a member of the team", "value": {"owner": "carol"}},
    "robot": {"summary": "A key for a week", "value": {"owner": "nightly-ci", "expires_in_s": 604800}},
}

LEASE_EXAMPLES: dict[str, Any] = {
    "script": {
        "summary": "A script of one's own on one GPU, for two hours at the most",
        "value": {
            "command": ["python", "mine.py", "--epochs", "3"],
            "directory": "/home/ann/project",
            "gpus": 1,
            "time_limit": "2h",
        },
    },
    "notebook": {
        "summary": "Ended after half an hour in which nothing happens",
        "value": {
            "command": ["/home/ann/venv/bin/jupyter", "lab", "--no-browser"],
            "time_limit": "8h",
            "idle_limit": "30m",
            "environment": {"HF_HOME": "/data/hf"},
        },
    },
}
