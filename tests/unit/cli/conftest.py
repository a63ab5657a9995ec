"""The command run in this process against an API in memory."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from opensloth import client as client_module
from opensloth.cli import main
from opensloth.remote import follow, transport
from tests.support.fake_api import FakeApi


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(follow, "REOPEN_S", 0.001)
    monkeypatch.setenv("OPENSLOTH_BASE_URL", "http://box:8400")
    monkeypatch.setenv("OPENSLOTH_API_KEY", "sk-sloth-test")
    made = FakeApi()
    real = client_module.Transport
    monkeypatch.setattr(
        client_module, "Transport", lambda credentials, **_: real(credentials, transport=made.transport())
    )
    return made


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["opensloth", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return command
