"""Writes a model as one GGUF file, tensor by tensor, and reads its metadata back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from opensloth.training.exports.failures import ExportFailed
from opensloth.training.exports.gguf_vocabulary import add_vocabulary, read_vocabulary
from opensloth.training.exports.merged import OnDone
from opensloth.training.exports.weights import WeightSource

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF's name by transformers' `model_type`; each is tested by reading back what was written."""
_ROWS_AT_ONCE = 8192
_COARSE = ("q4_0", "q4_1", "q5_0", "q5_1")
"""Types under which embedding and output stay at q8_0: they cost most quality and least space."""


def write_gguf(
    source: WeightSource, config: Any, tokenizer: Path, target: Path, name: str, quantization: str, on_done: OnDone
) -> None:
    """Writes the file `target`; `config` is transformers' config of the model.

    Raises ExportFailed for an architecture or a tokenizer that is not known here.
    """
    import gguf

    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise ExportFailed(
            f"models of type {config.model_type!r} cannot be written as GGUF here; only {', '.join(ARCHITECTURES)}",
            hint='export with "format": "merged_16bit" and convert that with llama.cpp\'s convert_hf_to_gguf.py',
        )
    vocabulary = read_vocabulary(tokenizer, config.vocab_size)
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(getattr(gguf.LlamaFileType, _file_type(quantization)))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config)
    add_vocabulary(writer, vocabulary)
    tensors = _Tensors(source, config, architecture, quantization)
    for tensor_name, shape, kind in tensors.plan():
        writer.add_tensor_info(tensor_name, shape, _float32(), _size(shape, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total, done = tensors.total, 0
    for data, count in tensors.data():
        writer.write_tensor_data(data)
        done += count
        on_done(done, total)
    writer.flush()
    writer.close()


def read_fields(file: Path) -> dict[str, Any]:
    """The metadata of a GGUF file as Python values."""
    import gguf

    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


class _Tensors:
    """The tensors of a model under GGUF's names, in the order in which they are written."""

    def __init__(self, source: WeightSource, config: Any, architecture: str, quantization: str) -> None:
        import gguf

        self._source, self._config, self._architecture = source, config, architecture
        self._wanted = quantization
        kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
        names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
        self._names: dict[str, str] = {}
        for name in source.names:
            if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings):
                continue
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise ExportFailed(f"the tensor {name} has no name in GGUF")
            self._names[name] = found
        self._frequencies = rope_frequencies(config)

    @property
    def total(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(self._source.shape(name)) for name in self._names)

    def plan(self) -> list[tuple[str, tuple[int, ...], Any]]:
        """Name, shape and type of each."""
        import gguf

        planned = [(name, self._source.shape(stored), self._kind(stored)) for stored, name in self._names.items()]
        if self._frequencies is not None:
            shape = self._frequencies.shape
            planned.append(("rope_freqs.weight", shape, gguf.GGMLQuantizationType.F32))
        return planned

    def data(self) -> Any:
        """The bytes of each, with how many numbers they stand for."""
        import torch

        for name in self._names:
            values = self._source.tensor(name).to(torch.float32).numpy()
            yield quantize(self._permuted(name, values), self._kind(name)), values.size
        if self._frequencies is not None:
            yield self._frequencies, 0

    def _kind(self, name: str) -> Any:
        """The type of a tensor: norms and biases stay exact, rows that blocks do not divide stay at 16 bits."""
        import gguf

        types = gguf.GGMLQuantizationType
        shape = self._source.shape(name)
        if len(shape) == 1:
            return types.F32
        wanted = self._wanted
        if wanted in _COARSE and self._names[name] in ("token_embd.weight", "output.weight"):
            wanted = "q8_0"
        kind = getattr(types, wanted.upper())
        return types.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind

    def _permuted(self, name: str, values: Any) -> Any:
        """GGUF's llama pairs neighbouring rows for rotary embedding where transformers pairs the halves of a head."""
        if self._architecture != "llama":
            return values
        if ".q_proj." in name:
            heads = self._config.num_attention_heads
        elif ".k_proj." in name:
            heads = self._config.num_key_value_heads
        else:
            return values
        split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return split.swapaxes(1, 2).reshape(values.shape)


def _add_shape(writer: Any, config: Any) -> None:
    rope = config.rope_parameters
    if rope.get("rope_type", "default") not in ("default", "llama3") or getattr(config, "sliding_window", None):
        raise ExportFailed("its positions (rope scaling or a sliding window) cannot be written as GGUF here")
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def rope_frequencies(config: Any) -> Any:
    """Llama 3's divisors of the rotary frequencies, [head size / 2]; None where positions are not scaled."""
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "llama3":
        return None
    import numpy

    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    waves = 2 * math.pi * rope["rope_theta"] ** (numpy.arange(0, head, 2) / head)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    context = rope["original_max_position_embeddings"]
    smooth = (context / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    scaled = numpy.where(waves > context / low, factor, numpy.where(waves < context / high, 1.0, between))
    return scaled.astype(numpy.float32)


def quantize(values: Any, kind: Any) -> Any:
    """The tensor's bytes, made some rows at a time so that what quantising needs on the way stays small."""
    import gguf
    import numpy

    values = numpy.ascontiguousarray(values)
    if values.ndim == 1 or len(values) <= _ROWS_AT_ONCE:
        return gguf.quantize(values, kind)
    first = gguf.quantize(values[:1], kind)
    made = numpy.empty((len(values), *first.shape[1:]), dtype=first.dtype)
    for start in range(0, len(values), _ROWS_AT_ONCE):
        made[start : start + _ROWS_AT_ONCE] = gguf.quantize(values[start : start + _ROWS_AT_ONCE], kind)
    return made


def _size(shape: tuple[int, ...], kind: Any) -> int:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * size


def _file_type(quantization: str) -> str:
    return {"f32": "ALL_F32"}.get(quantization, f"MOSTLY_{quantization.upper()}")


def _float32() -> Any:
    import numpy

    return numpy.dtype(numpy.float32)
