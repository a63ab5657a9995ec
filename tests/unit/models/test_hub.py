"""Base models of the hub: fetched by a worker without their code, gated ones with a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opensloth.errors import InvalidInput
from opensloth.hub import HubFailed
from opensloth.models.acquire import fetch_model
from opensloth.models.imports import claim_import, run_import
from opensloth.models.views import ModelView
from opensloth.services import Services
from tests.support.fake_hub import FakeHub, serve_hub
from tests.support.jobs import ADMIN
from tests.support.tiny_model import make_tiny_model

TOKEN = "hf_the+right/token"

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    model = {file.name: file.read_bytes() for file in folder.iterdir()}
    return {**model, "modeling.py": b"raise SystemExit", "pytorch_model.bin": b"\x80", "onnx/config.json": b"{}"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub(TOKEN) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr("opensloth.hub._PAUSES_S", (0.01,))
        yield served


def register(services: Services, tmp_path: Path, source: str, secret: str | None = None) -> ModelView:
    """Register a model, and import it as a worker does."""
    services.models.register("tiny", source, ADMIN, secret)
    claimed = claim_import(services.database, "box", 30.0)
    assert claimed is not None
    run_import(services.database, services.storage, services.secrets, tmp_path / "imports", claimed, "box")
    return services.models.get("tiny", ADMIN)


def test_a_model_of_the_hub_is_stored_without_its_code(
    services: Services, hub: FakeHub, tmp_path: Path, files: dict[str, bytes]
) -> None:
    hub.publish("models/org/tiny", files)
    model = register(services, tmp_path, "org/tiny")
    assert (model.status, model.error) == ("ready", None)
    stored = {file.name for file in services.storage.list_tree("models/tiny") or []}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= stored
    assert not stored & {"modeling.py", "pytorch_model.bin"}
    assert not {"modeling.py", "pytorch_model.bin", "onnx/config.json"} & set(hub.downloads)
    with services.database.read() as session:
        choice = services.models.choices.of(session, "tiny", "model", ADMIN)
    assert (choice.hub_id, choice.storage_key) == ("org/tiny", "models/tiny")


def test_a_gated_model_is_fetched_with_the_token_of_a_secret(
    services: Services, hub: FakeHub, tmp_path: Path, files: dict[str, bytes]
) -> None:
    hub.publish("models/org/tiny", files, gated=True)
    services.secrets.put("hf", TOKEN, ADMIN)
    services.secrets.put("stale", "hf_wrong", ADMIN)
    for secret in (None, "stale"):
        refused = register(services, tmp_path, "org/tiny", secret)
        assert refused.status == "failed"
        assert "is gated" in str(refused.error)
        assert "hf_wrong" not in str(refused.error)
    assert register(services, tmp_path, "org/tiny", "hf").status == "ready"


def test_what_lies_in_the_hosts_cache_is_for_those_alone_whom_the_hub_gives_it(
    services: Services, hub: FakeHub, tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.publish("models/org/tiny", files, gated=True)
    folder = fetch_model("org/tiny", TOKEN, None)
    assert (folder / "config.json").exists()
    assert fetch_model("org/tiny", TOKEN, None) == folder
    for token in (None, "hf_wrong"):
        with pytest.raises(HubFailed, match="is gated"):
            fetch_model("org/tiny", token, None)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"config.json": None}, "no config.json"),
        ({"model.safetensors": None}, "no .safetensors file"),
        ({"model.safetensors": b"short"}, "is not a safetensors file"),
    ],
)
def test_a_repository_that_is_no_whole_model_is_refused(
    services: Services,
    hub: FakeHub,
    tmp_path: Path,
    files: dict[str, bytes],
    spoil: dict[str, bytes | None],
    said: str,
) -> None:
    spoilt = {**files, **spoil}
    hub.publish("models/org/tiny", {name: content for name, content in spoilt.items() if content is not None})
    model = register(services, tmp_path, "org/tiny")
    assert model.status == "failed"
    assert said in str(model.error)


def test_a_model_that_the_hub_does_not_have_is_named(services: Services, hub: FakeHub, tmp_path: Path) -> None:
    model = register(services, tmp_path, "org/none")
    assert model.status == "failed"
    assert "the model org/none" in str(model.error)


def test_a_secret_is_for_models_of_the_hub_and_has_to_be_there(services: Services) -> None:
    for source, secret in (("org/tiny", "none"), ("/models/tiny", "hf"), ("smollm2-135m", "hf")):
        with pytest.raises(InvalidInput) as error:
            services.models.register("tiny", source, ADMIN, secret)
        assert [field.path for field in error.value.fields] == ["secret"]
