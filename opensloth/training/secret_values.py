"""The secrets of one job inside its process: read once from a pipe, and taken out of all that the process says."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO
from urllib.parse import quote

FD_VARIABLE = "OPENSLOTH_SECRETS_FD"
MASK = "[secret]"
_OF_STORAGE = re.compile(r"(AWS|AZURE|GOOGLE|GCS|FSSPEC)_\w*(SECRET|TOKEN|PASSWORD|CONNECTION_STRING|_KEY)")


class SecretValues:
    """Values by the name under which the job uses them; never printed, never in an environment."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values: dict[str, str] = {}
        self._forms: list[str] = []
        self.learn(values)

    def learn(self, values: dict[str, str]) -> None:
        """These too from now on, in what is guarded already as well."""
        self._values |= values
        kept = self._values.values()
        forms = {form for value in kept for form in (value, json.dumps(value)[1:-1], quote(value, safe=""))}
        # The longest first: one secret may be a part of another.
        self._forms = sorted((form for form in forms if form), key=len, reverse=True)

    def __repr__(self) -> str:
        return f"SecretValues({', '.join(self._values)})"

    def get(self, name: str) -> str | None:
        """The value under `name`."""
        return self._values.get(name)

    def redact(self, text: str) -> str:
        """`text` with every secret in it masked."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text

    def redact_all(self, value: Any) -> Any:
        """A JSON value with every text in it redacted."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {self.redact(str(key)): self.redact_all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_all(item) for item in value]
        return value

    def guard_output(self, *, late: bool = False) -> None:
        """From now on what this process prints is redacted, line by line; `late`: secrets may come later."""
        if self._forms or late:
            sys.stdout = _Redacting(sys.stdout, self)
            sys.stderr = _Redacting(sys.stderr, self)


def read_secrets() -> SecretValues:
    """What the worker wrote into the pipe whose descriptor OPENSLOTH_SECRETS_FD names; nothing without one.

    The storage's credentials, which its driver reads from the environment, are taken out of what is said too.
    """
    values = {name: value for name, value in os.environ.items() if _OF_STORAGE.fullmatch(name) and len(value) >= 8}
    number = os.environ.pop(FD_VARIABLE, None)
    if number is None:
        return SecretValues(values)
    with os.fdopen(int(number), "rb") as pipe:
        return SecretValues(values | json.loads(pipe.read() or b"{}"))


def secrets_pipe(values: Mapping[str, str]) -> int:
    """The read end of a pipe that holds the values and has no writer left; they are shorter than a pipe's buffer."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(json.dumps(dict(values)).encode())
    return read_end


class _Redacting(io.TextIOBase):
    """A text stream that holds back the last line until it is whole, since a secret could be cut in two."""

    def __init__(self, stream: TextIO, secrets: SecretValues) -> None:
        self._stream = stream
        self._secrets = secrets
        self._rest = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._stream.write(self._secrets.redact("\n".join(lines)) + "\n")
        return len(text)

    def flush(self) -> None:
        if self._rest:
            self._stream.write(self._secrets.redact(self._rest))
            self._rest = ""
        self._stream.flush()
