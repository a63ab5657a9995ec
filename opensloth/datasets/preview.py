"""Rows as a model will see them, and a file's statistics: a short-lived process of the API, killed at a deadline.

It reads a `PreviewRequest` from stdin and writes its answer to stdout: `python -m opensloth.datasets.preview`.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from opensloth.datasets.canonical import CanonicalRows, FileRows
from opensloth.datasets.containers import Container
from opensloth.datasets.encode import IGNORE, encode_answers, encode_sft
from opensloth.datasets.light_tokenizer import LightTokenizer
from opensloth.datasets.light_tokenizer_files import FILES
from opensloth.datasets.statistics import Hashes, Statistics, content_hash
from opensloth.errors import FieldError, InvalidDataset, InvalidInput, OpenSlothError
from opensloth.hub import prepare_hub

MEMORY_BYTES = 2 * 2**30
BATCH_ROWS = 64
MAX_TOKENS_SHOWN = 4096
ANSWERS = {"dpo": ("chosen", "rejected"), "orpo": ("chosen", "rejected"), "kto": ("completion",), "grpo": ()}
"""Columns with answers to `prompt`; of GRPO's rows the prompt alone is in the file."""

Part = tuple[str, list[int], list[bool]]
"""A name, token ids, and which of them are trained on."""


class Source(BaseModel):
    """A dataset file on this machine."""

    path: Path
    name: str
    container: Container

    def rows(self, training_type: str, form: str | None) -> CanonicalRows:
        """Its rows in the form that is trained on."""
        return CanonicalRows(FileRows(self.path, self.container, self.name), training_type, form)


class PreviewRequest(BaseModel):
    """What to show; `statistics_s` seconds are spent on the figures at most. No model: nothing is tokenized."""

    model_config = ConfigDict(protected_namespaces=())

    file: Source
    evaluation: Source | None = None
    training_type: str
    form: str | None = None
    loss_on: Literal["assistant", "completion", "all"] | None = None
    max_length: int | None = None
    model_folder: Path | None = None
    hub_id: str | None = None
    offset: int = 0
    rows: int = 3
    statistics_s: float = 10.0


def main() -> None:
    """Answer the request on stdin."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    request = PreviewRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        answer = preview(request)
    except OpenSlothError as error:
        fields = [vars(field) for field in error.fields]
        answer = {"refused": error.message, "code": error.error_code, "hint": error.hint, "fields": fields}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def preview(request: PreviewRequest) -> dict[str, Any]:
    """`rows` and `statistics`; raises InvalidInput for a model or rows that cannot be shown."""
    began = time.monotonic()
    tokenizer = _tokenizer(request)
    rows = request.file.rows(request.training_type, request.form)
    shown = []
    for number, row in itertools.islice(enumerate(rows, 1), request.offset, request.offset + request.rows):
        shown.append(_shown(number, row, request, tokenizer))
    return {"rows": shown, "statistics": _statistics(request, rows, tokenizer, began + request.statistics_s)}


def _shown(number: int, row: Mapping[str, Any], request: PreviewRequest, tokenizer: LightTokenizer | None) -> Any:
    if tokenizer is None:
        return {"row": number, "content": row, "tokens": None, "over_length": None, "parts": []}
    parts = _encoded(number, [row], request, tokenizer)[0]
    tokens, _ = _sizes(parts)
    too_long = request.max_length is not None and tokens > request.max_length
    views = [_part_view(part, tokenizer) for part in parts]
    return {"row": number, "content": row, "tokens": tokens, "over_length": too_long, "parts": views}


def _part_view(part: Part, tokenizer: LightTokenizer) -> dict[str, Any]:
    name, ids, trained = part
    return {
        "name": name,
        "tokens": len(ids),
        "trained_tokens": sum(trained),
        "token_ids": ids[:MAX_TOKENS_SHOWN],
        "token_strings": tokenizer.strings(ids[:MAX_TOKENS_SHOWN]),
        "trained": trained[:MAX_TOKENS_SHOWN],
        "cut": len(ids) > MAX_TOKENS_SHOWN,
    }


def _encoded(first: int, batch: list[Any], request: PreviewRequest, tokenizer: LightTokenizer) -> list[list[Part]]:
    try:
        if request.training_type not in ANSWERS:
            samples = encode_sft(batch, tokenizer, request.loss_on)
            return [[("row", done.input_ids, [label != IGNORE for label in done.labels])] for done in samples]
        columns = ANSWERS[request.training_type]
        return [
            [("prompt", prompt, _learnt(prompt, request.training_type))]
            + [(name, ids, [True] * len(ids)) for name, ids in zip(columns, answers, strict=True)]
            for prompt, answers in encode_answers(batch, tokenizer, columns)
        ]
    except OpenSlothError:
        raise
    except Exception as error:
        if len(batch) > 1:
            return [_encoded(first + i, [row], request, tokenizer)[0] for i, row in enumerate(batch)]
        message = f"row {first} cannot be rendered: {error}"
        raise InvalidDataset(message, fields=[FieldError(f"rows[{first}]", str(error), "invalid_row", first)]) from None


def _learnt(prompt: list[int], training_type: str) -> list[bool]:
    """Which tokens of a prompt are trained on: of ORPO's all but the first, by the likelihood of the chosen text."""
    return [training_type == "orpo" and place > 0 for place in range(len(prompt))]


def _sizes(parts: list[Part]) -> tuple[int, int]:
    """Tokens of a row, which are those of the prompt and the longest answer, and how many are trained on."""
    prompts = sum(len(ids) for name, ids, _ in parts if name == "prompt")
    answers = [len(ids) for name, ids, _ in parts if name != "prompt"]
    return prompts + max(answers, default=0), sum(sum(trained) for _, _, trained in parts)


def _statistics(
    request: PreviewRequest, rows: CanonicalRows, tokenizer: LightTokenizer | None, until: float
) -> dict[str, Any]:
    """Of as many rows as the time allows; `complete` tells whether these are all."""
    evaluation, complete = None, True
    if request.evaluation is not None:
        evaluation = Hashes()
        for number, row in enumerate(request.evaluation.rows(request.training_type, request.form), 1):
            evaluation.add(content_hash(row), number)
            if time.monotonic() > until:
                complete = False
                break
    found = Statistics(request.max_length, evaluation)
    for batch in _batches(iter(rows)):
        if time.monotonic() > until:
            complete = False
            break
        sizes: list[tuple[int, int] | None] = [None] * len(batch)
        if tokenizer is not None:
            sizes = [_sizes(parts) for parts in _encoded(found.rows + 1, batch, request, tokenizer)]
        for row, size in zip(batch, sizes, strict=True):
            found.add(row, size)
    return {**found.to_dict(), "complete": complete}


def _batches(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield batch


def _tokenizer(request: PreviewRequest) -> LightTokenizer | None:
    folder = request.model_folder
    if folder is None and request.hub_id is not None:
        prepare_hub()
        from huggingface_hub import snapshot_download

        try:
            # The server's own token is nobody's to use.
            folder = Path(snapshot_download(request.hub_id, allow_patterns=list(FILES), token=False))
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            message = f"the tokenizer of {request.hub_id} cannot be fetched: {reason}"
            raise InvalidInput(message, code="model_not_found", fields=[FieldError("model", message)]) from None
    return LightTokenizer(folder) if folder is not None else None


if __name__ == "__main__":
    main()
