"""What an export writes computes what the job made: every form, every quantisation, every kind of adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from opensloth.models.export_formats import Quantization
from opensloth.models.gguf import convert_gguf
from opensloth.training.exports import check
from opensloth.training.exports.failures import ExportFailed
from opensloth.training.exports.gguf_file import quantize, read_fields, rope_frequencies
from opensloth.training.exports.gguf_vocabulary import PROBES, SPLITS, compare_vocabulary
from opensloth.training.exports.merged import write_merged
from opensloth.training.exports.spec import ExportRun
from opensloth.training.exports.weights import WeightSource, can_stream
from opensloth.training.exports.work import ExportWork
from opensloth.training.records import Records
from tests.support.exports import export_run, make_adapter, make_qwen
from tests.support.tiny_model import CHAT_TEMPLATE, make_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter"))


def make(spec: ExportRun) -> tuple[Path, dict[str, float]]:
    torch.set_num_threads(1)
    return ExportWork(spec, Records(Path(spec.run_dir) / "events.jsonl"), None).make()


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float()


def test_a_merged_checkpoint_is_base_and_adapter_in_16_bits(base: Path, adapter: Path, tmp_path: Path) -> None:
    import peft

    folder, measured = make(export_run(tmp_path, base, adapter))
    reference = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    expected = reference.merge_and_unload().state_dict()
    merged = load_file(folder / "model.safetensors")
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor, expected[name].to(torch.bfloat16), rtol=0.01, atol=1e-5)
    assert measured["check/kl"] < 0.001
    assert measured["check/greedy_agreement"] == 1.0
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHAT_TEMPLATE
    card = (folder / "README.md").read_text()
    assert "base_model: tiny" in card
    assert "ftjob-0a" in card


QUICK: Quantization = "q4_0"


@pytest.mark.parametrize(
    "quantization",
    [QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in get_args(Quantization) if kind != QUICK)],
)
def test_a_gguf_file_of_every_type_is_read_back(base: Path, adapter: Path, tmp_path: Path, quantization: str) -> None:
    folder, measured = make(export_run(tmp_path, base, adapter, format="gguf", quantization=quantization))
    assert measured["check/kl"] <= check.LARGEST_KL[quantization]
    fields = read_fields(folder / f"tone-{quantization}.gguf")
    assert fields["general.architecture"] == "llama"
    assert fields["tokenizer.chat_template"] == CHAT_TEMPLATE
    sizes = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.07, "q5_1": 0.95, "q5_0": 0.9, "q4_1": 0.85, "q4_0": 0.8}
    weights = sum(4 * tensor.numel() for tensor in load_file(base / "model.safetensors").values())
    assert (folder / f"tone-{quantization}.gguf").stat().st_size < weights / 4 * sizes[quantization] * 1.1 + 12_000


def test_a_gguf_file_comes_back_as_the_checkpoint_that_it_was(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder, _ = make(export_run(tmp_path, base, adapter, format="gguf", quantization="f32"))
    convert_gguf(folder / "tone-f32.gguf", tmp_path / "back")
    back, original = AutoTokenizer.from_pretrained(tmp_path / "back"), AutoTokenizer.from_pretrained(base)
    for text in PROBES:
        assert back(text)["input_ids"] == original(text)["input_ids"]
    chat = [{"role": "user", "content": "Hi 12"}]
    assert back.apply_chat_template(chat, tokenize=False) == original.apply_chat_template(chat, tokenize=False)
    assert (back.eos_token, back.get_vocab()) == (original.eos_token, original.get_vocab())
    merged, _ = make(export_run(tmp_path, base, adapter))
    ids = original("The capital of France")["input_ids"]
    again = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "back"), ids)
    torch.testing.assert_close(
        again, logits(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), ids), rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "smollm"])
def test_the_way_in_which_text_is_split_has_the_name_that_llama_cpp_knows(tmp_path: Path, pre: str) -> None:
    model = make_tiny_model(tmp_path)
    stored = json.loads((model / "tokenizer.json").read_text())
    pattern = {"pattern": {"Regex": SPLITS.get(pre)}, "behavior": "Isolated", "invert": False}
    split = {"type": "Digits", "individual_digits": True} if pre == "smollm" else {"type": "Split", **pattern}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pre == "smollm"}
    stored["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    (model / "tokenizer.json").write_text(json.dumps(stored))
    make(export_run(tmp_path, model, None, format="gguf", quantization="q8_0"))
    fields = read_fields(tmp_path / "run" / "result" / "tone-q8_0.gguf")
    assert fields["tokenizer.ggml.pre"] == pre


def test_the_scaled_positions_of_llama_3_are_written_as_llama_cpp_reads_them() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500_000.0 ** (-torch.arange(0, 64, 2) / 64)
    torch.testing.assert_close(torch.from_numpy(rope_frequencies(config)), plain / scaled, rtol=1e-4, atol=1e-4)


def test_a_large_matrix_is_quantised_in_parts_as_in_one() -> None:
    import gguf
    import numpy

    values = numpy.random.default_rng(0).normal(size=(20_000, 32)).astype(numpy.float32)
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.F16):
        numpy.testing.assert_array_equal(quantize(values, kind), gguf.quantize(values, kind))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_other_architectures_are_written_as_gguf_too(tmp_path: Path, kind: str) -> None:
    model = make_qwen(tmp_path / "model", kind)
    adapter = make_adapter(model, tmp_path / "adapter")
    _, measured = make(export_run(tmp_path, model, adapter, format="gguf", quantization="f32"))
    assert measured["check/kl"] < 1e-5


@pytest.mark.parametrize(
    ("lora", "streams"),
    [
        ({"use_rslora": True}, True),
        pytest.param({"use_dora": True}, False, marks=pytest.mark.slow),
        pytest.param({"rank_pattern": {"q_proj": 4}}, False, marks=pytest.mark.slow),
        ({"modules_to_save": ["embed_tokens"]}, False),
    ],
)
def test_every_kind_of_adapter_is_merged(base: Path, tmp_path: Path, lora: dict[str, Any], streams: bool) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **lora)
    assert can_stream(base, adapter) is streams
    _, measured = make(export_run(tmp_path, base, adapter))
    assert measured["check/kl"] < 0.002


def test_a_model_that_was_trained_in_full_is_exported_and_has_no_adapter(base: Path, tmp_path: Path) -> None:
    _, measured = make(export_run(tmp_path, base, None, format="gguf", quantization="f16"))
    assert measured["check/kl"] < 0.001
    with pytest.raises(ExportFailed, match="no adapter"):
        make(export_run(tmp_path, base, None, format="adapter"))


def test_an_adapter_names_its_base_as_people_know_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder, measured = make(export_run(tmp_path, base, adapter, format="adapter", base_name="org/base"))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    assert measured["check/kl"] == 0.0


def test_a_result_without_its_adapter_is_found_out(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightSource, "tensor", lambda self, name: self._file(self._files[name]).get_tensor(name))
    for form in ({"format": "merged_16bit"}, {"format": "gguf", "quantization": "q8_0"}):
        with pytest.raises(ExportFailed) as found:
            make(export_run(tmp_path, base, adapter, **form))
        assert found.value.error_code == "export_differs"


def test_a_missing_adapter_is_told_from_rounding() -> None:
    def spoken(shift: float, noise: float = 0.0) -> check.Spoken:
        values = torch.zeros(64, 8)
        values[:, 0] = shift
        rounding = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        return check.Spoken([torch.log_softmax(values + noise * rounding, -1)], [[1, 2]])

    bare, adapted = spoken(0.0), spoken(0.1)
    assert check.divergence(adapted, bare) < check.LARGEST_KL["merged_16bit"] / 10
    with pytest.raises(ExportFailed, match="no effect"):
        check.compare(adapted, spoken(0.0, 0.02), "merged_16bit", bare)
    for noise in (0.0, 0.02, 0.1):
        check.compare(adapted, spoken(0.1, noise), "merged_16bit", bare)
    check.compare(spoken(0.001), spoken(0.0, 0.1), "merged_16bit", bare)


def test_a_tokenizer_that_changed_on_the_way_is_found_out(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder, _ = make(export_run(tmp_path, base, adapter, format="gguf", quantization="q8_0"))
    fields = read_fields(folder / "tone-q8_0.gguf")
    compare_vocabulary(fields, base)
    tokens = list(fields["tokenizer.ggml.tokens"])
    tokens[5], tokens[40] = tokens[40], tokens[5]
    for change in (
        {"tokenizer.ggml.tokens": tokens},
        {"tokenizer.chat_template": "{{ messages }}"},
        {"tokenizer.ggml.eos_token_id": 0},
    ):
        with pytest.raises(ExportFailed, match="tokenizer is not the job's"):
            compare_vocabulary(fields | change, base)


def test_what_gguf_cannot_hold_is_refused_with_another_way(base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_tiny_model(model)
    stored = json.loads((model / "tokenizer.json").read_text())
    stored["pre_tokenizer"] = {"type": "Whitespace"}
    (model / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(ExportFailed, match="splits text") as refused:
        make(export_run(tmp_path, model, None, format="gguf", quantization="q8_0"))
    assert "merged_16bit" in str(refused.value.hint)


def test_a_base_that_is_stored_quantised_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(ExportFailed, match="stored quantised"):
        make(export_run(tmp_path, model, adapter))


def test_shards_have_an_index_and_load_as_one_model(base: Path, adapter: Path, tmp_path: Path) -> None:
    target = tmp_path / "merged"
    told: list[int] = []
    write_merged(
        WeightSource(base, adapter),
        base,
        adapter,
        target,
        lambda done, total: told.append(100 * done // total),
        shard_bytes=9000,
    )
    files = sorted(target.glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((target / "model.safetensors.index.json").read_text())
    for file in files:
        with safe_open(file, framework="pt") as opened:
            assert all(index["weight_map"][name] == file.name for name in opened.keys())  # noqa: SIM118
    assert told == sorted(told)
    assert told[-1] == 100
    AutoModelForCausalLM.from_pretrained(target)


@pytest.mark.slow
def test_memory_holds_a_shard_and_not_the_model(tmp_path: Path) -> None:
    """240 MB of weights in shards of 16 MB: a process that merges them grows by less than a third of that."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"dtype": "float32"}')
    for file in range(6):
        save_file({f"part{file}.{n}": torch.zeros(1024, 2048) for n in range(5)}, model / f"model-{file}.safetensors")
    code = """
import resource, sys; from pathlib import Path
import torch, safetensors.torch
from opensloth.training.exports.merged import write_merged
from opensloth.training.exports.weights import WeightSource
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
before, most = anonymous(), 0
def told(done, total):
    global most
    most = max(most, anonymous() - before)
model = Path(sys.argv[1])
write_merged(WeightSource(model), model, model, model / "out", told, shard_bytes=16 << 20)
print(most // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80


@pytest.mark.slow
@pytest.mark.parametrize("form", [{"format": "merged_16bit"}, {"format": "gguf", "quantization": "q8_0"}])
def test_smollm2_speaks_as_before(smollm2: Path, tmp_path: Path, form: dict[str, str]) -> None:
    adapter = make_adapter(smollm2, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor * 0.1 for name, tensor in weights.items()}, adapter / "adapter_model.safetensors")
    _, measured = make(export_run(tmp_path, smollm2, adapter, **form))
    assert measured["check/kl"] < 0.02
    assert measured["check/top1_agreement"] > 0.9
