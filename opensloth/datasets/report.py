"""What a check found: for each training type whether the file serves it, and the first rows that do not."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from opensloth.datasets.containers import Container
from opensloth.datasets.forms import METHODS, Form, Row, choose_form, needed_columns
from opensloth.datasets.messages import Problem, shown
from opensloth.datasets.records import Record

MAX_ERRORS = 10
MAX_COLUMNS = 64
DETECT_ROWS = 20
"""Rows from which the form of a file is taken: the one that most of them have."""
CHECK_VERSION = 3
"""Raised when the rules change: a content that comes again is checked again."""
OLDEST_CHECK = 2
"""Stored checks from this version on can still be used: what they passed still passes."""
ADVISED_ROWS = 10
"""Fewer rows teach little; OpenAI refuses them, and here they are only pointed at."""


class RowError(BaseModel):
    """A row that cannot be used: its number from 1, the line where it starts in a text file, column and cure."""

    row: int
    line: int | None = None
    column: str | None = None
    message: str


class FormCheck(BaseModel):
    """Whether the file serves in one form; `errors` are the first of `bad_rows`.

    `tool_calls_row` is the first row in which a message calls a tool.
    """

    ok: bool
    bad_rows: int = 0
    errors: list[RowError] = []
    tool_calls_row: int | None = None


class MethodCheck(FormCheck):
    """Whether the file serves one training type, in the form that its first rows have.

    `forms` holds the same for every form that some of the first rows have; a job chooses with `dataset_form`.
    """

    form: str | None = None
    forms: dict[str, FormCheck] = {}


class FileCheck(BaseModel):
    """The structure of one file; `form` is what its first row looks like."""

    version: int = CHECK_VERSION
    container: Container
    rows: int
    columns: list[str]
    form: str | None
    methods: dict[str, MethodCheck]
    warnings: list[str] = []


class FormReport:
    """Collects what is wrong in one form."""

    def __init__(self, form: Form | None, training_type: str) -> None:
        self._form = form
        self._training_type = training_type
        self._bad_rows = 0
        self._errors: list[RowError] = []
        self._tool_calls_row: int | None = None

    def add(self, record: Record) -> None:
        """Look at one row."""
        if self._tool_calls_row is None and self._form is not None and self._form.calls_tool(record.values):
            self._tool_calls_row = record.row
        problem = self._form.check(record.values) if self._form else None
        if self._form is not None and problem is None:
            return
        self._bad_rows += 1
        if len(self._errors) >= MAX_ERRORS or (self._form is None and self._errors):
            return
        problem = problem or Problem(None, self._no_form(record.values))
        self._errors.append(RowError(row=record.row, line=record.line, column=problem.column, message=problem.message))

    def result(self) -> FormCheck:
        """What was found."""
        ok = self._form is not None and not self._bad_rows
        calls = self._tool_calls_row
        return FormCheck(ok=ok, bad_rows=self._bad_rows, errors=self._errors, tool_calls_row=calls)

    def _no_form(self, row: Row) -> str:
        has = column_list(row) or "no columns"
        return f"the row has {has}; {self._training_type} needs {needed_columns(self._training_type)}"


class MethodReport:
    """Collects what is wrong for one training type, in each form that some of the first rows have."""

    def __init__(self, training_type: str) -> None:
        self._training_type = training_type
        self._first: list[Record] | None = []
        self._form: Form | None = None
        self._reports: dict[str, FormReport] = {}

    def add(self, record: Record) -> None:
        """Look at one row."""
        if self._first is None:
            for report in self._reports.values():
                report.add(record)
            return
        self._first.append(record)
        if len(self._first) >= DETECT_ROWS:
            self._decide()

    def result(self) -> MethodCheck:
        """What was found."""
        self._decide()
        forms = {name: report.result() for name, report in self._reports.items()}
        if self._form is None:
            return MethodCheck(**forms[""].model_dump())
        return MethodCheck(form=self._form.name, forms=forms, **forms[self._form.name].model_dump())

    def _decide(self) -> None:
        first, self._first = self._first, None
        if first is None:
            return
        rows = [record.values for record in first]
        self._form = choose_form(self._training_type, rows)
        forms = [form for form in METHODS[self._training_type] if any(form.fits(row) for row in rows)]
        self._reports = {form.name: FormReport(form, self._training_type) for form in forms}
        if self._form is None:
            self._reports = {"": FormReport(None, self._training_type)}
        for record in first:
            for report in self._reports.values():
                report.add(record)


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
            warnings=warnings(self.rows),
        )


def warnings(rows: int) -> list[str]:
    """What is no mistake, and should be known before a job is made."""
    if rows >= ADVISED_ROWS:
        return []
    return [f"the file has {rows} row{'' if rows == 1 else 's'}; a model learns little from fewer than {ADVISED_ROWS}"]


def column_list(names: Iterable[str]) -> str:
    """The first column names, quoted, as a message shows them."""
    listed = [f"`{shown(name)}`" for name in names]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
