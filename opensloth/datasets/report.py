"""What a check found: for each training type whether the file serves it, and the first rows that do not."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from opensloth.datasets.containers import Container
from opensloth.datasets.forms import METHODS, Form, Row, form_for, needed_columns
from opensloth.datasets.messages import Problem, shown
from opensloth.datasets.records import Record

MAX_ERRORS = 10
MAX_COLUMNS = 64
CHECK_VERSION = 1
"""Raised when the rules change: a stored check of an older version is made again before it is used."""


class RowError(BaseModel):
    """A row that cannot be used: its number from 1, the line where it starts in a text file, column and cure."""

    row: int
    line: int | None = None
    column: str | None = None
    message: str


class MethodCheck(BaseModel):
    """Whether the file serves one training type; `errors` are the first of `bad_rows`."""

    ok: bool
    form: str | None = None
    bad_rows: int = 0
    errors: list[RowError] = []


class FileCheck(BaseModel):
    """The structure of one file; `form` is what its first row looks like."""

    version: int = CHECK_VERSION
    container: Container
    rows: int
    columns: list[str]
    form: str | None
    methods: dict[str, MethodCheck]


class MethodReport:
    """Collects what is wrong for one training type; the first row decides the form of the whole file."""

    def __init__(self, training_type: str) -> None:
        self._training_type = training_type
        self._form: Form | None = None
        self._decided = False
        self._bad_rows = 0
        self._errors: list[RowError] = []

    def add(self, record: Record) -> None:
        """Look at one row."""
        if not self._decided:
            self._form = form_for(self._training_type, record.values)
            self._decided = True
            if self._form is None:
                self._reject(record, Problem(None, self._no_form(record.values)))
                return
        if self._form is None:
            self._bad_rows += 1
        elif problem := self._form.check(record.values):
            self._reject(record, problem)

    def result(self) -> MethodCheck:
        """What was found."""
        form = self._form.name if self._form else None
        return MethodCheck(
            ok=form is not None and not self._bad_rows, form=form, bad_rows=self._bad_rows, errors=self._errors
        )

    def _reject(self, record: Record, problem: Problem) -> None:
        self._bad_rows += 1
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(
                RowError(row=record.row, line=record.line, column=problem.column, message=problem.message)
            )

    def _no_form(self, row: Row) -> str:
        has = column_list(row) or "no columns"
        return f"the row has {has}; {self._training_type} needs {needed_columns(self._training_type)}"


class Report:
    """Collects what is wrong for every training type at once."""

    def __init__(self) -> None:
        self.rows = 0
        self._methods = {name: MethodReport(name) for name in METHODS}
        self._columns: dict[str, None] = {}

    def add(self, record: Record) -> None:
        """Look at one row."""
        self.rows += 1
        if len(self._columns) < MAX_COLUMNS and not record.values.keys() <= self._columns.keys():
            self._columns |= dict.fromkeys(list(record.values)[:MAX_COLUMNS])
        for method in self._methods.values():
            method.add(record)

    def result(self, container: Container, form: str | None) -> FileCheck:
        """What was found."""
        return FileCheck(
            container=container,
            rows=self.rows,
            columns=[shown(name) for name in self._columns][:MAX_COLUMNS],
            form=form,
            methods={name: method.result() for name, method in self._methods.items()},
        )


def column_list(names: Iterable[str]) -> str:
    """The first column names, quoted, as a message shows them."""
    listed = [f"`{shown(name)}`" for name in names]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
