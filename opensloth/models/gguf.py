"""Turns a GGUF file into a Hugging Face checkpoint: `python -m opensloth.models.gguf IN.gguf OUT_DIR`."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

CHAT_END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


def convert_gguf(source: Path, target: Path) -> None:
    """Writes `source` as safetensors with config, generation config and tokenizer into the new folder `target`.

    The folder is made beside the target and renamed, so that `target` is complete or not there. Weights are kept in
    float32: a GGUF file is quantised, so nothing is lost that bfloat16 would keep, a CPU trains float32 faster than
    its emulated bfloat16, and a GPU casts on loading. Raises FileExistsError where `target` exists already, OSError and
    ValueError where the file is no GGUF or its architecture is unknown to transformers.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it or name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with tempfile.TemporaryDirectory() as alone:
            # transformers would take a tokenizer or config that happens to lie beside the file.
            (Path(alone) / source.name).symlink_to(source.resolve())
            _write_checkpoint(Path(alone) / source.name, aside)
        aside.chmod(0o755)
        for file in aside.iterdir():
            file.chmod(0o644)  # safetensors writes its files for the owner alone
        os.rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_checkpoint(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    config = AutoConfig.from_pretrained(**where)
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)

    end = _end_of_turn(tokenizer)
    tokenizer.eos_token = end
    # A pad token of its own would need a row of the embedding; loss and attention mask it out anyway.
    tokenizer.pad_token = end
    tokenizer.clean_up_tokenization_spaces = False  # it is meant for WordPiece and would eat spaces of others
    config.eos_token_id = config.pad_token_id = tokenizer.convert_tokens_to_ids(end)
    config.bos_token_id = tokenizer.bos_token_id

    # The loaded model is marked as quantised and refuses to be saved; an unmarked twin takes its weights over.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _end_of_turn(tokenizer: object) -> str:
    """The token that ends an assistant's turn, by the chat template where it names one of the known ones."""
    template = getattr(tokenizer, "chat_template", None) or ""
    vocabulary = tokenizer.get_vocab()  # type: ignore[attr-defined]
    for token in CHAT_END_TOKENS:
        if token in template and token in vocabulary:
            return token
    end = tokenizer.eos_token  # type: ignore[attr-defined]
    if end is None:
        raise ValueError("the GGUF file's tokenizer has no token that ends a text")
    return str(end)


def main() -> None:
    """The command: converts the file that the first argument names into the folder that the second names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    convert_gguf(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
