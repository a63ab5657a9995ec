"""What of the worker's environment its trainers see."""

from __future__ import annotations

import pytest

from opensloth.training.secret_values import read_secrets
from tests.support.s3 import CREDENTIALS
from worker.environment import trainer_environment


def test_the_credentials_of_another_store_are_not_for_trainers() -> None:
    parent = {**CREDENTIALS, "AZURE_STORAGE_KEY": "x", "OPENSLOTH_SECRET_KEY": "y"}
    assert not {*CREDENTIALS, "AZURE_STORAGE_KEY"} & trainer_environment(parent).keys()
    with_s3 = trainer_environment(parent | {"OPENSLOTH_STORAGE_URL": "s3://bucket"})
    assert CREDENTIALS.items() <= with_s3.items()
    assert not {"AZURE_STORAGE_KEY", "OPENSLOTH_SECRET_KEY"} & with_s3.keys()


def test_the_stores_secret_is_taken_out_of_what_a_trainer_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    said = read_secrets().redact(f"key {CREDENTIALS['AWS_SECRET_ACCESS_KEY']} in {CREDENTIALS['AWS_DEFAULT_REGION']}")
    assert said == "key [secret] in us-east-1"
