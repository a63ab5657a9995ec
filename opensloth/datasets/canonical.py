"""Where a form becomes what is trained on: check, preview and trainer all read rows through here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opensloth.datasets.containers import Container
from opensloth.datasets.forms import METHODS, Form, Row, choose_form, form_named
from opensloth.datasets.messages import Problem
from opensloth.datasets.prepared_cache import PreparedCache
from opensloth.datasets.raw import Convert, NumberedRows
from opensloth.datasets.readers import iter_rows
from opensloth.datasets.report import DETECT_ROWS
from opensloth.errors import FieldError, InvalidDataset


class FileRows:
    """The rows of a dataset file; can be read again and again.

    `sha256` names the content, so that what is prepared from it can be kept in `cache`.
    """

    def __init__(
        self,
        path: Path | str,
        container: Container | None,
        name: str,
        sha256: str | None = None,
        cache: PreparedCache | None = None,
    ) -> None:
        self._path = Path(path)
        self._container = container
        self.name = name
        self.sha256 = sha256
        self.cache = cache

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each row; raises InvalidDataset with file and row for one that cannot be read."""
        try:
            yield from iter_rows(self._path, self._container)
        except InvalidDataset as error:
            raise InvalidDataset(f"{self.name}: {error.message}", hint=error.hint, fields=error.fields) from None


class CanonicalRows:
    """Rows of any form as rows that are trained on; can be read as often as what they are made from.

    Of a file each row is checked again, which names file, row and cure; rows of a script are only converted.
    """

    def __init__(self, rows: Iterable[Row], training_type: str, form: str | None = None) -> None:
        self._rows = rows
        self._training_type = training_type
        self._form = form
        self._checks = isinstance(rows, FileRows)
        self.cache: PreparedCache | None = getattr(rows, "cache", None)
        self.name: str | None = getattr(rows, "name", None)

    @property
    def fingerprint(self) -> str | None:
        """What names the content of these rows; None where nothing does."""
        sha256 = getattr(self._rows, "sha256", None)
        return f"{sha256}:{self._training_type}:{self._form or ''}" if sha256 else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each row; raises InvalidDataset for one that does not have the form of the others."""
        rows, convert = self.raw()
        for number, row in rows:
            yield from convert([row], [number])

    def raw(self) -> tuple[NumberedRows, Convert]:
        """The rows as they are written, and what makes rows that are trained on of some of them, or raises as here."""
        rows = iter(self._rows)
        first = list(itertools.islice(rows, DETECT_ROWS))
        form = find_form(first, self._training_type, self._form)
        return enumerate(itertools.chain(first, rows), 1), partial(self._convert, form)

    def _convert(self, form: Form | None, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any]]:
        if form is None:
            return [dict(row) for row in rows]
        if self._checks:
            for number, row in zip(numbers, rows, strict=True):
                if problem := form.check(row):
                    raise self._refusal(number, problem)
        return [form.convert(row) for row in rows]

    def _refusal(self, number: int, problem: Problem) -> InvalidDataset:
        field = FieldError(f"dataset.rows[{number}].{problem.column or ''}", problem.message, "invalid_row", number)
        return InvalidDataset(
            f"{self.name}: row {number}: {problem.message}",
            hint="correct the row and upload the file again",
            fields=[field],
        )


def find_form(first: Sequence[Row], training_type: str, name: str | None = None) -> Form | None:
    """The form named, or the one that the first rows have; None for rows that are taken as they are."""
    if name is not None:
        return form_named(training_type, name)
    return choose_form(training_type, first) if training_type in METHODS else None


def canonical_splits(dataset: Any, training_type: str, form: str | None = None) -> Any:
    """A dataset, or a mapping of splits, with every split read through `CanonicalRows`."""
    if training_type not in METHODS or dataset is None:
        return dataset
    if isinstance(dataset, Mapping):
        return {
            name: split if split is None else canonical_splits(split, training_type, form)
            for name, split in dataset.items()
        }
    # What can be read only once could not be split for evaluation.
    return CanonicalRows(list(dataset) if isinstance(dataset, Iterator) else dataset, training_type, form)
