"""A chat template is a program of the model's: it takes a conversation as in transformers, and ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from opensloth.chat.engine import templates
from opensloth.chat.engine.templates import TemplateFailed, Templates
from tests.support.tiny_model import CHAT_TEMPLATE, make_tokenizer

MESSAGES = [{"role": "system", "content": "Be «kind»\n"}, {"role": "user", "content": "Hi 🎉"}]
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "grows": "{% set n = namespace(x='x' * 1000) %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "multiplies": "{{ 'x' * 99999999999 }}",
    "prints without end": "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}",
    "calls itself": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "leaves the sandbox": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "reads a file": "{% include '/etc/passwd' %}",
    "is no template": "{% for %}",
}


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Templates]:
    monkeypatch.setattr(templates, "SECONDS", 2.0)
    made = Templates()
    yield made
    made.close()


def test_a_hostile_template_is_refused_and_the_next_conversation_is_answered_as_by_transformers(
    process: Templates,
) -> None:
    honest = make_tokenizer(CHAT_TEMPLATE)
    expected = honest.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    for template in HOSTILE.values():
        with pytest.raises(TemplateFailed, match=r".+"):
            process.render(make_tokenizer(template), MESSAGES)
        assert process.render(honest, MESSAGES) == expected


def test_the_engines_sigterm_leaves_what_it_has_taken_a_template(process: Templates) -> None:
    honest = make_tokenizer(CHAT_TEMPLATE)
    expected = process.render(honest, MESSAGES)
    first = process._process
    assert first is not None
    first.send_signal(signal.SIGTERM)
    assert process.render(honest, MESSAGES) == expected
    assert process._process is first
