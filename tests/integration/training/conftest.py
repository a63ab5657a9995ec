"""A tiny model, and a host of trainer processes, once a session."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from opensloth.models.acquire import acquire
from opensloth.storage import Storage
from tests.support.tiny_model import make_tiny_model
from tests.support.training import TrainerHost


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of some 150 KB."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def broken_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with an output layer so large that every loss is infinite or NaN."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].sign() * 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def trainers() -> TrainerHost:
    """Starts trainer processes without their slow imports."""
    return TrainerHost()


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct; `OPENSLOTH_TEST_SMOLLM2` names a folder where it is already."""
    ready = os.environ.get("OPENSLOTH_TEST_SMOLLM2")
    if ready:
        return Path(ready)
    folder = tmp_path_factory.mktemp("smollm2")
    storage = Storage(str(folder / "storage"))
    acquire("smollm2-135m", "models/smollm2-135m", storage, folder / "scratch")
    path = storage.local_path("models/smollm2-135m")
    assert path is not None
    return path
