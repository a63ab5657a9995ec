"""Prepare preference pairs for DPO: `python prepare_dataset/prepare_dpo_dataset.py --output_dir data/dpo_cache`.

With `--input_file preferences.json` (or JSONL, CSV, Parquet) it takes your own pairs, else the example dataset. Each
row is checked; the directory it writes is what a script's `data_cache_path` takes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opensloth.datasets.readers import iter_rows
from opensloth.datasets.row_text import Row
from opensloth.errors import InvalidInput

COLUMNS = ("prompt", "chosen", "rejected")
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "datasets" / "support_preferences.jsonl"


class BadPair(ValueError):
    """A row that is no preference pair."""


def checked_pairs(source: Path) -> Iterator[Row]:
    """The pairs of a file with their three columns; raises BadPair with the row's number and what is wrong."""
    for number, row in enumerate(iter_rows(source), start=1):
        missing = [column for column in COLUMNS if not row.get(column)]
        if missing:
            raise BadPair(f"row {number}: {', '.join(missing)} missing or empty; it has {', '.join(row) or 'nothing'}")
        kinds = {type(row[column]).__name__ for column in COLUMNS}
        if len(kinds) > 1 or kinds - {"str", "list"}:
            raise BadPair(f"row {number}: prompt, chosen and rejected must all be text, or all lists of messages")
        if row["chosen"] == row["rejected"]:
            raise BadPair(f"row {number}: chosen and rejected are the same, which teaches nothing")
        yield {column: row[column] for column in COLUMNS}


def prepare(source: Path, output_dir: Path) -> int:
    """Write the pairs of `source` to `output_dir`, with a description beside them; returns the number of pairs."""
    from datasets import Dataset

    pairs = list(checked_pairs(source))
    if not pairs:
        raise BadPair(f"{source} has no rows")
    Dataset.from_list(pairs).save_to_disk(str(output_dir))
    description = {"training_type": "dpo", "dataset_size": len(pairs), "columns": list(COLUMNS), "source": source.name}
    (output_dir / "dataset_config.json").write_text(json.dumps(description, indent=2) + "\n")
    show(pairs[0])
    return len(pairs)


def show(pair: dict[str, Any]) -> None:
    """Print one pair for the eye."""
    print("The first pair:")
    for column in COLUMNS:
        value = pair[column]
        text = value if isinstance(value, str) else " / ".join(message["content"] for message in value)
        print(f"  {column}: {' '.join(text.split())[:160]}")


def main() -> None:
    """The command; one line and exit status 1 for data that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("data/dpo_cache"), help="the directory to write")
    parser.add_argument("--input_file", type=Path, default=EXAMPLE, help="your pairs: JSON, JSONL, CSV or Parquet")
    options = parser.parse_args()
    try:
        count = prepare(options.input_file, options.output_dir)
    except (BadPair, InvalidInput, FileNotFoundError) as problem:
        sys.exit(f"{options.input_file}: {problem}")
    print(f"{count} pairs in {options.output_dir}. Train on them with")
    print(f"  python train_scripts/train_dpo_example.py --data {options.output_dir}")


if __name__ == "__main__":
    main()
