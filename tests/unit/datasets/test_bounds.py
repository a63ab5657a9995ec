"""What a chat template may take while rows are tokenized."""

from __future__ import annotations

import resource
import signal

import pytest

from opensloth.datasets import bounds
from opensloth.datasets.bounds import TemplateUnbounded
from opensloth.datasets.row_text import render
from tests.support.tiny_model import make_tokenizer

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "did not end within 0.5 s"),
        ("{{ ('x' * 99999999999) | length }}", "more than 2 GiB"),
    ],
)
def test_a_template_that_loops_or_grows_fails_its_row_and_nothing_stays_limited(
    monkeypatch: pytest.MonkeyPatch, template: str, told: str
) -> None:
    monkeypatch.setattr(bounds, "SECONDS", 0.5)
    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM)
    with pytest.raises(TemplateUnbounded, match=told):
        render(make_tokenizer(template), MESSAGES, False, {})
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
