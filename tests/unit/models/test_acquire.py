"""A folder that is no whole model is refused when it is registered, not when the first job loads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from opensloth.models.acquire import CannotImport, acquire
from opensloth.storage import Storage
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def import_(folder: Path, tmp_path: Path) -> set[str]:
    storage = Storage(str(tmp_path / "storage"))
    return {file.name for file in acquire(str(folder), "models/m", storage, tmp_path / "scratch")}


def test_a_whole_folder_is_taken_without_the_code_in_it(model: Path, tmp_path: Path) -> None:
    (model / "modeling.py").write_text("raise SystemExit")
    (model / "pytorch_model.bin").write_bytes(b"\x80")
    names = import_(model, tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"modeling.py", "pytorch_model.bin"}


def _cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def _only_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _a_shard_short(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut_off, "its header tells of"),
        (_only_a_pointer, "is not a safetensors file"),
        (_no_tokenizer, "has no tokenizer"),
        (_a_shard_short, "lacks model-00002-of-00002.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is not a safetensors file"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "not a JSON object"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(
    model: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(model)
    with pytest.raises(CannotImport, match=said):
        import_(model, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "README.md", "added.json"])
def test_a_link_out_of_the_folder_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text((model / "config.json").read_text())
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(CannotImport, match="outside the model's folder"):
        import_(model, tmp_path)


def test_the_links_of_the_hubs_cache_are_followed(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    model.rename(repository / "blobs")
    for file in (repository / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert "model.safetensors" in import_(snapshot, tmp_path)
