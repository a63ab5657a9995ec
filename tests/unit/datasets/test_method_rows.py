"""Rows of KTO, ORPO and GRPO."""

from __future__ import annotations

import pytest

from opensloth.datasets.forms import METHODS, Form


def form_for(method: str, row: dict) -> Form | None:
    return next((form for form in METHODS[method] if form.fits(row)), None)


ASKED = [{"role": "user", "content": "How?"}]
SAID = [{"role": "assistant", "content": "So."}]


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("kto", {"prompt": "How?", "completion": "So.", "label": True}),
        ("kto", {"prompt": ASKED, "completion": SAID, "label": False}),
        ("orpo", {"prompt": "How?", "chosen": "So.", "rejected": "No."}),
        ("grpo", {"prompt": "How?", "answer": 4, "anything": None}),
        ("grpo", {"prompt": ASKED}),
    ],
)
def test_a_row_of_the_methods_own_form_fits(method, row):
    form = form_for(method, row)
    assert form is not None
    assert form.check(row) is None


@pytest.mark.parametrize(
    ("method", "row", "column", "words"),
    [
        ("kto", {"prompt": "How?", "completion": "So.", "label": "true"}, "label", "without quotes"),
        ("kto", {"prompt": "How?", "completion": "So.", "label": 1}, "label", "a number"),
        ("kto", {"prompt": "How?", "completion": " ", "label": True}, "completion", "empty"),
        ("kto", {"prompt": "How?", "completion": SAID, "label": True}, "prompt", "both"),
        ("orpo", {"prompt": "How?", "chosen": "So.", "rejected": "So."}, "rejected", "identical"),
        ("grpo", {"prompt": ""}, "prompt", "empty"),
        ("grpo", {"prompt": ASKED + SAID}, "prompt", "must end with"),
    ],
)
def test_a_bad_row_is_told_its_column_and_cure(method, row, column, words):
    form = form_for(method, row)
    assert form is not None
    problem = form.check(row)
    assert problem is not None
    assert problem.column == column
    assert words in problem.message


def test_a_row_without_its_columns_has_no_form():
    assert form_for("kto", {"prompt": "How?", "completion": "So."}) is None
    assert form_for("grpo", {"text": "How?"}) is None
