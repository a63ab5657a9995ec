"""Building TRL's config objects, so that an error about them is known for what it is."""

from __future__ import annotations

from typing import Any

ARGUMENTS_NOTE = "training arguments"
"""Noted on TRL's or transformers' own error about the arguments, which is left as it is."""


def build_arguments(config_class: type, values: dict[str, Any]) -> Any:
    """An instance of TRL's `config_class`; fields that transformers does not know raise its own TypeError."""
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:
        error.add_note(ARGUMENTS_NOTE)
        raise
