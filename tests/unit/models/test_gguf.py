"""A GGUF file becomes a checkpoint that computes the same, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opensloth.models.gguf import convert_gguf
from tests.support.tiny_model import CHAT_TEMPLATE, SPECIAL, make_tiny_model

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and, in `tiny.gguf` within, the same model as a GGUF file."""
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    _write_gguf(folder, folder / "tiny.gguf")
    return folder


def test_the_checkpoint_computes_what_the_file_holds(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "converted"
    convert_gguf(tiny / "tiny.gguf", target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Grüße, 2+2?"}], tokenize=False)
    expected = AutoTokenizer.from_pretrained(tiny)(text)["input_ids"]
    assert tokenizer(text)["input_ids"] == expected
    ids = torch.tensor([expected])
    with torch.no_grad():
        first, second = (AutoModelForCausalLM.from_pretrained(path)(input_ids=ids).logits for path in (tiny, target))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_a_turn_ends_with_the_token_of_the_chat_template(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "converted"
    convert_gguf(tiny / "tiny.gguf", target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(target)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert not hasattr(model.config, "quantization_config")
    assert {file.suffix for file in target.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_a_file_that_is_no_model_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises((ValueError, OSError, KeyError)):
        convert_gguf(broken, tmp_path / "converted")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.gguf"]


def test_a_folder_that_is_there_is_not_touched(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists"):
        convert_gguf(tiny / "tiny.gguf", tmp_path)


def _write_gguf(folder: Path, target: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(["Q Q", "Z Z"])
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    writer.add_unk_token_id(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weight in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if part in name:  # GGUF interleaves the two halves of each head for its rotation
                weight = weight.view(count, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(_gguf_name(name), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    fixed = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in fixed:
        return f"{fixed[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"
