"""Jobs of one shape teach later ones what they need."""

from __future__ import annotations

from typing import Any

import pytest

from opensloth.database import Database
from opensloth.devices.shapes import Known, known, learn, shape_key, similar


def key(**changed: Any) -> str:
    values: dict[str, Any] = {
        "device": "cuda",
        "engine": "unsloth",
        "method": "sft",
        "model": "llama-1b@1235814400",
        "precision": "4bit",
        "adapter": "r16 on q_proj",
        "memory": "adamw_8bit layers",
        "tokens": 2048,
        "batch": 4,
        "passes": 2,
        "world_size": 1,
        "data": "full",
    }
    return shape_key(**values | changed)


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


def test_each_thing_that_bears_on_memory_makes_another_shape() -> None:
    changed = {"device": "cpu", "engine": "transformers", "method": "dpo", "model": "b", "precision": "16bit"}
    changed |= {"adapter": "full", "memory": "sgd", "tokens": 1, "batch": 1, "passes": 1, "world_size": 2, "data": "x"}
    keys = {key(**{name: value}) for name, value in changed.items()}
    assert len(keys) == len(changed)
    assert key() not in keys


def test_the_highest_peak_and_the_newest_times_are_kept(database: Database) -> None:
    shape = key()
    with database.write() as session:
        assert known(session, shape) is None
        learn(session, shape, peak_bytes=None, start_s=40.0, step_s=1.0)
        learn(session, shape, peak_bytes=7, start_s=30.0, step_s=2.0)
        learn(session, shape, peak_bytes=5, start_s=None, step_s=3.0)
    with database.write() as session:
        assert known(session, shape) == Known(7, 30.0, 3.0)
        learn(session, shape, peak_bytes=None, start_s=None, step_s=None)
    with database.read() as session:
        assert known(session, shape) == Known(7, 30.0, 3.0)


def test_a_job_of_another_size_tells_the_time_of_a_step_by_its_tokens(database: Database) -> None:
    with database.write() as session:
        learn(session, key(batch=1), peak_bytes=9, start_s=20.0, step_s=1.0)
        learn(session, key(batch=16), peak_bytes=9, start_s=25.0, step_s=8.0)
        learn(session, key(method="dpo"), peak_bytes=9, start_s=1.0, step_s=1.0)
    with database.read() as session:
        assert similar(session, key(batch=2)) == Known(None, 20.0, 2.0)
        assert similar(session, key(batch=8, adapter="r64")) == Known(None, 25.0, 4.0)
        assert similar(session, key(method="kto")) is None


def test_names_with_wildcards_are_other_names(database: Database) -> None:
    with database.write() as session:
        learn(session, key(model="llama-1b"), peak_bytes=9, start_s=20.0, step_s=1.0)
    with database.read() as session:
        assert similar(session, key(model="llama_1b")) is None
        assert similar(session, key(model="llama%")) is None
