"""Fine-tune and chat by the openai package against OpenSloth; all that differs is where it connects and the model.

export OPENAI_BASE_URL=http://127.0.0.1:8400/v1 OPENAI_API_KEY=$(opensloth key | tail -1)
python examples/openai_sdk.py --model smollm2-135m --question "My chain slips on the smallest cog."
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import openai

DATASET = Path(__file__).parent / "datasets" / "support_sft.jsonl"


def main() -> None:
    """Upload, create, poll, events, chat."""
    options = arguments()
    client = openai.OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY

    with options.file.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    print(f"uploaded {file.filename} as {file.id}")

    job = client.fine_tuning.jobs.create(
        model=options.model,
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": options.epochs}}},
        suffix=options.suffix,
    )
    print(f"created {job.id}")

    seen: set[str] = set()
    while True:
        job = client.fine_tuning.jobs.retrieve(job.id)
        told = [event for event in client.fine_tuning.jobs.list_events(job.id) if event.id not in seen]
        for event in reversed(told):  # the newest come first
            seen.add(event.id)
            print(f"  {event.message}")
        if job.status in ("succeeded", "failed", "cancelled"):
            break
        time.sleep(options.every)
    if job.fine_tuned_model is None:
        raise SystemExit(f"the job {job.status}: {job.error.message if job.error else 'no reason was given'}")
    print(f"trained {job.fine_tuned_model}")

    if options.question:
        stream = client.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": options.question}], stream=True
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
        print()


def arguments() -> argparse.Namespace:
    """What to train and what to ask it."""
    parser = argparse.ArgumentParser(description="Fine-tune and chat by the openai package against OpenSloth.")
    parser.add_argument("--model", default="smollm2-135m", help="a base model of the server, or an alias")
    parser.add_argument("--file", type=Path, default=DATASET, help="training rows in JSON lines")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--suffix", default="support")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks at the job")
    parser.add_argument("--question", default="My chain slips on the smallest cog. What now?", help="'' asks nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
