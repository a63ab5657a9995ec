"""A byte-level BPE tokenizer as GGUF metadata, and back again to see that nothing was lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensloth.training.exports.failures import ExportFailed

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types of the GGUF specification."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {"llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST, "qwen2": _WORDS + r"\p{N}" + _REST}
"""Regular expressions that llama.cpp knows by name (`tokenizer.ggml.pre`)."""

PROBES = (
    "The capital of France is Paris.",
    "Grüße, 東京! 🦥 naïve café",
    "x = 12345 + 6_789; // don't\n\n\tif (y != 0.5e-3) { return 'ok'; }\r\n",
    "  spaces   and\ttabs  ",
    "I'LL say we've DON'T 1234567890",
)
"""Texts whose tokens are compared; words, scripts, digits, code, white space."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer; `types` are those of the specification."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: dict[str, int]
    """Ids of bos, eos, unk and pad, as far as there are any."""
    add_bos: bool
    chat_template: str | None


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokenizer in `folder` for an embedding of `rows` rows; raises ExportFailed for one that GGUF cannot hold."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise _unsupported("it has no tokenizer.json")
    stored = json.loads((folder / "tokenizer.json").read_text())
    model = stored["model"]
    if model.get("type") != "BPE" or not model.get("merges"):
        raise _unsupported("it is no byte-level BPE with merges")
    pre = _pre_name(stored)
    if model.get("ignore_merges") and pre != "llama-bpe":
        raise _unsupported("it ignores its merges")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    tokens, types = _tokens(stored, rows)
    special = {
        kind: value
        for kind in ("bos", "eos", "unk", "pad")
        if (value := getattr(tokenizer, f"{kind}_token_id", None)) is not None
    }
    add_bos = tokenizer("a")["input_ids"][:1] == [special.get("bos")]
    if "eos" in special:
        # Readers want one; llama.cpp would take token 11 otherwise. It is not put before any text.
        special.setdefault("bos", special["eos"])
    return Vocabulary(
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        special=special,
        add_bos=add_bos,
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def add_vocabulary(writer: Any, found: Vocabulary) -> None:
    """Writes the tokenizer's metadata."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    writer.add_token_merges(found.merges)
    for kind, value in found.special.items():
        getattr(writer, f"add_{kind}_token_id")(value)
    writer.add_add_bos_token(found.add_bos)
    if found.chat_template is not None:
        writer.add_chat_template(found.chat_template)


def compare_vocabulary(fields: dict[str, Any], folder: Path) -> None:
    """Rebuilds the tokenizer from a GGUF file's `fields` and compares it with the one in `folder`.

    Raises ExportFailed where a probe gives other ids, or special tokens or the chat template differ.
    """
    from transformers import AutoTokenizer

    original = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    rebuilt = _rebuild(fields)
    # Control tokens have to be tokens in the text, so the template's own text is a probe too.
    markers = "".join(original.all_special_tokens)
    for text in (*PROBES, f"{markers}hello{markers}"):
        expected = original(text, add_special_tokens=False)["input_ids"]
        if rebuilt.encode(text, add_special_tokens=False).ids != expected:
            raise _differs(f"{text!r} has other tokens")
    for kind in ("bos", "eos", "unk", "pad"):
        key = "tokenizer.ggml." + {"unk": "unknown", "pad": "padding"}.get(kind, kind) + "_token_id"
        expected = getattr(original, f"{kind}_token_id", None)
        unused = kind == "bos" and expected is None and not fields.get("tokenizer.ggml.add_bos_token")
        if fields.get(key) != expected and not unused:
            raise _differs(f"the {kind} token is another")
    if fields.get("tokenizer.chat_template") != (original.chat_template or None):
        raise _differs("the chat template is another")


def _rebuild(fields: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, models

    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    pre = fields["tokenizer.ggml.pre"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    for token, kind in zip(tokens, types, strict=True):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    return tokenizer


def _tokens(stored: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    added = {entry["id"]: entry for entry in stored.get("added_tokens", [])}
    by_id = {number: token for token, number in stored["model"]["vocab"].items()}
    by_id |= {number: entry["content"] for number, entry in added.items()}
    if max(by_id) >= rows:
        raise _unsupported(f"it has tokens beyond the {rows} rows of the embedding")
    tokens, types = [], []
    for number in range(rows):
        # Embeddings are often padded to a round size; the rows behind the last token need a name all the same.
        tokens.append(by_id.get(number, f"[PAD{number}]"))
        if number in added:
            types.append(CONTROL if added[number]["special"] else USER_DEFINED)
        else:
            types.append(NORMAL if number in by_id else UNUSED)
    return tokens, types


def _pre_name(stored: dict[str, Any]) -> str:
    """llama.cpp's name for how the tokenizer splits text before BPE."""
    if not _is_plain(stored.get("normalizer")):
        raise _unsupported("it normalises text in a way that GGUF does not know")
    steps = stored.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    match [step.get("type") for step in steps]:
        case ["ByteLevel"] if steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
            return "gpt-2"
        case ["Digits", "ByteLevel"] if steps[0].get("individual_digits") and steps[1].get("use_regex", True):
            return "smollm"
        case ["Split", "ByteLevel"] if steps[0].get("behavior") == "Isolated" and not steps[0].get("invert"):
            pattern = steps[0].get("pattern", {}).get("Regex")
            for name, known in SPLITS.items():
                if pattern == known:
                    return name
        case _:
            pass
    raise _unsupported("it splits text in a way that has no name in GGUF")


def _pre_tokenizer(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if name == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(SPLITS[name]), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _is_plain(normalizer: dict[str, Any] | None) -> bool:
    """Whether text stays as it is, but for NFC, which llama.cpp leaves to the caller."""
    if normalizer is None or normalizer.get("type") == "NFC":
        return True
    return normalizer.get("type") == "Sequence" and all(_is_plain(step) for step in normalizer["normalizers"])


def _unsupported(why: str) -> ExportFailed:
    return ExportFailed(
        f"the tokenizer cannot be written as GGUF: {why}",
        hint='export with "format": "merged_16bit" and convert that with llama.cpp\'s convert_hf_to_gguf.py',
    )


def _differs(what: str) -> ExportFailed:
    return ExportFailed(f"the GGUF file's tokenizer is not the job's: {what}", code="export_differs")
