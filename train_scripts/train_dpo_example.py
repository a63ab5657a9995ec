"""Direct preference optimization from a script: `python train_scripts/train_dpo_example.py [--model M] [--data FILE]`.

Start it from the adapter that supervised fine-tuning left with `--adapter outputs/sft_training`. The data may be the
directory that `prepare_dataset/prepare_dpo_dataset.py` makes.
"""

import argparse

from opensloth.opensloth_config import DPOArgs, FastModelArgs, LoraArgs, OpenSlothConfig, TrainingArguments
from opensloth.scripts.opensloth_trainer import run_mp_training, setup_envs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="smollm2-135m", help="a registered model, a local directory or a hub id")
parser.add_argument("--data", default="examples/datasets/support_preferences.jsonl", help="pairs, or a directory")
parser.add_argument("--adapter", help="a local adapter to go on from; its LoRA shape holds")
parser.add_argument("--output_dir", default="outputs/dpo_training", help="where the adapter is saved")
parser.add_argument("--max_steps", type=int, default=-1, help="optimizer steps, instead of epochs")
parser.add_argument("--devices", type=int, nargs="+", default=[0], help="GPUs by index; one process trains on each")


def main() -> None:
    """Train and save."""
    options = parser.parse_args()
    opensloth_config = OpenSlothConfig(
        data_cache_path=options.data,
        devices=options.devices,
        training_type="dpo",
        fast_model_args=FastModelArgs(model_name=options.model, max_seq_length=1024, load_in_4bit=True),
        lora_args=None if options.adapter else LoraArgs(r=32, lora_alpha=32),
        pretrained_lora=options.adapter,
        dpo_args=DPOArgs(
            beta=0.1,  # how near the answers stay to those of the model that training starts from
            max_length=512,
            max_prompt_length=256,
        ),
        sequence_packing=False,
    )
    training_config = TrainingArguments(
        output_dir=options.output_dir,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=5e-5,  # higher than for a large model: 135 million weights move less
        num_train_epochs=1,
        max_steps=options.max_steps,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.0,
        optim="adamw_8bit",
        logging_steps=1,
        save_total_limit=2,
        seed=42,
        report_to="none",
    )
    setup_envs(opensloth_config, training_config)
    run_mp_training(opensloth_config.devices, opensloth_config, training_config)
    print("DPO training completed!")


if __name__ == "__main__":
    main()
