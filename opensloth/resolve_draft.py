"""The copy of a config that `resolve` works on: it knows what the user set and writes down every reason."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from opensloth.errors import FieldError, InvalidInput
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments


class Draft:
    """A config that is being resolved; `why` has the reason for each field that was decided, by dotted path."""

    def __init__(self, config: OpenSlothConfig, training_args: TrainingArguments) -> None:
        self.config = config.model_copy(deep=True)
        self.training_args = training_args.model_copy(deep=True)
        self.why: dict[str, str] = {}
        self.explicit_lora = config.lora_args.model_fields_set.copy() if config.lora_args else set()

    def _owner(self, path: str) -> tuple[BaseModel | None, str]:
        root, *parents, name = path.split(".")
        owner: Any = self.config if root == "opensloth_config" else self.training_args
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name

    def has_part(self, path: str) -> bool:
        """Whether the part of the config that holds this field is there at all."""
        return self._owner(path)[0] is not None

    def is_set(self, path: str) -> bool:
        """Whether the user gave this field a value; None says "decide for me"."""
        owner, name = self._owner(path)
        return owner is not None and name in owner.model_fields_set and getattr(owner, name) is not None

    def get(self, path: str) -> Any:
        """The field's value now; its part must be there."""
        owner, name = self._owner(path)
        return getattr(owner, name)

    def put(self, path: str, value: Any, reason: str) -> None:
        """Set a field and say why; a field that had the value and was set by the user needs no reason."""
        owner, name = self._owner(path)
        if owner is None or (name in owner.model_fields_set and getattr(owner, name) == value):
            return
        setattr(owner, name, value)
        self.why[path] = reason


def invalid(path: str, message: str, code: str = "invalid") -> InvalidInput:
    """The error about one field."""
    return InvalidInput(f"{path}: {message}", fields=[FieldError(path, message, code)])
