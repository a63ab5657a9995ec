"""Supervised fine-tuning from a script: `python train_scripts/train_qwen.py [--model MODEL] [--data FILE]`.

It trains SmolLM2 on a laptop as it stands; on a GPU say `--model Qwen/Qwen2.5-0.5B-Instruct`, which speaks the same
chat format.
"""

import argparse

from opensloth.opensloth_config import FastModelArgs, LoraArgs, OpenSlothConfig, TrainingArguments
from opensloth.scripts.opensloth_trainer import run_mp_training, setup_envs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="smollm2-135m", help="a registered model, a local directory or a hub id")
parser.add_argument("--data", default="examples/datasets/support_sft.jsonl", help="rows, or a prepared directory")
parser.add_argument("--output_dir", default="outputs/sft_training", help="where the adapter is saved")
parser.add_argument("--max_steps", type=int, default=-1, help="optimizer steps, instead of epochs")
parser.add_argument("--devices", type=int, nargs="+", default=[0], help="GPUs by index; one process trains on each")


def main() -> None:
    """Train and save."""
    options = parser.parse_args()
    opensloth_config = OpenSlothConfig(
        data_cache_path=options.data,
        devices=options.devices,
        fast_model_args=FastModelArgs(
            model_name=options.model,
            max_seq_length=512,
            load_in_4bit=True,  # where the device can; the log says what was resolved
        ),
        lora_args=LoraArgs(r=16, lora_alpha=32),
        sequence_packing=True,
    )
    training_config = TrainingArguments(
        output_dir=options.output_dir,
        per_device_train_batch_size=1,  # a packed row holds four or five answers
        gradient_accumulation_steps=1,
        learning_rate=1e-3,  # high, because the model is small and the data short
        num_train_epochs=2,
        max_steps=options.max_steps,
        lr_scheduler_type="linear",
        warmup_steps=2,
        weight_decay=0.01,
        optim="adamw_8bit",
        logging_steps=1,
        save_total_limit=1,
        seed=3407,
        report_to="none",
    )
    setup_envs(opensloth_config, training_config)
    run_mp_training(opensloth_config.devices, opensloth_config, training_config)


if __name__ == "__main__":
    main()
