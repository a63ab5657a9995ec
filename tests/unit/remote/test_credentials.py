"""Which server and key are used, and who may read the stored key."""

from __future__ import annotations

import stat

import pytest

from opensloth.remote.credentials import (
    Credentials,
    credentials_path,
    find_credentials,
    read_credentials,
    same_server,
    write_credentials,
)
from opensloth.remote.errors import NoCredentials

STORED = Credentials("http://127.0.0.1:8400", "sk-stored")


def test_arguments_come_before_the_environment_and_that_before_the_file(monkeypatch):
    write_credentials(credentials_path(), STORED)
    assert find_credentials() == STORED
    monkeypatch.setenv("OPENSLOTH_API_KEY", "sk-env")
    assert find_credentials() == Credentials("http://127.0.0.1:8400", "sk-env")
    monkeypatch.setenv("OPENSLOTH_BASE_URL", "http://box:1/")
    assert find_credentials() == Credentials("http://box:1", "sk-env")
    assert find_credentials("http://arg:2", "sk-arg") == Credentials("http://arg:2", "sk-arg")


def test_a_stored_key_is_not_sent_to_another_server(monkeypatch):
    write_credentials(credentials_path(), STORED)
    monkeypatch.setenv("OPENSLOTH_BASE_URL", "http://elsewhere:8400")
    with pytest.raises(NoCredentials, match="not for http://elsewhere:8400"):
        find_credentials()


def test_localhost_and_loopback_are_the_same_server():
    assert same_server("http://localhost:8400", "http://127.0.0.1:8400/")
    assert same_server("https://box", "https://box:443")
    assert not same_server("http://box", "https://box")
    assert not same_server("http://box:8400", "http://box:8401")


def test_only_the_owner_can_read_what_is_written(tmp_path):
    path = tmp_path / "deep" / "credentials.json"
    write_credentials(path, STORED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_credentials(path) == STORED
    assert [entry.name for entry in path.parent.iterdir()] == ["credentials.json"]


def test_a_file_that_cannot_be_understood_is_named(tmp_path):
    path = tmp_path / "credentials.json"
    path.write_text("{broken")
    with pytest.raises(NoCredentials, match="cannot be read"):
        read_credentials(path)
