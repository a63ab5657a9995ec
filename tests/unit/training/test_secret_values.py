"""A process reads its secrets once and says none of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from opensloth.training.secret_values import FD_VARIABLE, SecretValues, read_secrets

SECRET = 'hf_a"b/c d'


def test_a_secret_is_masked_in_every_form_in_which_it_may_be_said() -> None:
    secrets = SecretValues({"push": SECRET, "other": "hf_a"})
    said = secrets.redact(f"{SECRET} {json.dumps(SECRET)} hf_a%22b%2Fc%20d")
    assert said == '[secret] "[secret]" [secret]'
    assert secrets.redact_all({"a": [SECRET, 1, None]}) == {"a": ["[secret]", 1, None]}
    assert SECRET not in repr(secrets)


def test_secrets_are_read_from_the_pipe_and_the_environment_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, json.dumps({"push": SECRET}).encode())
    os.close(write_end)
    monkeypatch.setenv(FD_VARIABLE, str(read_end))
    assert read_secrets().get("push") == SECRET
    assert FD_VARIABLE not in os.environ
    assert read_secrets().get("push") is None


def test_what_a_process_prints_is_masked_also_where_it_comes_in_pieces_or_as_a_traceback() -> None:
    code = (
        "import sys, logging; from opensloth.training.secret_values import SecretValues\n"
        "SecretValues({'push': 'hf_token'}).guard_output()\n"
        "sys.stdout.write('begin hf_'); sys.stdout.write('token end\\n')\n"
        "logging.basicConfig(stream=sys.stdout); logging.error('logged hf_token')\n"
        "raise ValueError('hf_token')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "hf_token" not in done.stdout + done.stderr
    assert "begin [secret] end\n" in done.stdout
    assert "ERROR:root:logged [secret]" in done.stdout
    assert "ValueError: [secret]" in done.stderr
