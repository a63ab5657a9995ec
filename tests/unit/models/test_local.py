"""Where a script finds a model by its name."""

from pathlib import Path

import pytest

from migrations.__main__ import upgrade
from opensloth.database import Database
from opensloth.errors import InvalidInput
from opensloth.models.local import local_model
from opensloth.models.rows import ModelRow
from opensloth.settings import get_settings
from opensloth.storage import Storage


@pytest.fixture(autouse=True)
def _fresh_settings():
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_a_directory_and_a_hub_id_are_taken_as_they_are(tmp_path):
    assert local_model(str(tmp_path)) == str(tmp_path)
    assert local_model("org/name") == "org/name"


def test_an_unknown_name_says_what_is_known():
    with pytest.raises(InvalidInput, match="smollm2-135m"):
        local_model("nothing-like-it")


def test_a_registered_model_is_found_in_the_storage_of_this_machine(tmp_path):
    settings = get_settings()
    settings.home.mkdir(parents=True)
    upgrade(settings.database)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    Storage(settings.storage).put_tree(folder, "models/mine")
    with Database(settings.database).write() as session:
        session.add(
            ModelRow(
                id="mine",
                kind="base",
                source="x",
                status="ready",
                owner="admin",
                created_at=0.0,
                storage_key="models/mine",
            )
        )
    assert settings.home / "storage" in Path(local_model("mine")).parents
