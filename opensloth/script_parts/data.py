"""The part of a bare script that reads a dataset file: its container, and its form as what is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from opensloth.datasets.forms import METHODS, Form, form_named
from opensloth.datasets.report import DETECT_ROWS
from opensloth.script_parts.carry import Name

PACKED = {"jsonl", "json", "csv"}
"""Containers that may be compressed as a whole."""

READERS = {
    "jsonl": """    return [json.loads(line) for line in text_of_file(path).split("\\n") if line.strip()]""",
    "json": """    return json.loads(text_of_file(path))""",
    "csv": """    csv.field_size_limit(2**31 - 1)
    lines = [fields for fields in csv.reader(io.StringIO(text_of_file(path), newline=""), strict=True) if fields]
    names = [name.strip() for name in lines[0]]
    return [dict(zip(names, fields, strict=True)) for fields in lines[1:]]""",
    "parquet": """    return pyarrow.parquet.read_table(path).to_pylist()""",
}

TEXT = '''def text_of_file(path: str) -> str:
    """What the file holds, unpacked if it is compressed by gzip or zstd."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic.startswith(b"\\x1f\\x8b"):
        with gzip.open(path) as stream:
            return stream.read().decode("utf-8-sig")
    if magic == b"\\x28\\xb5\\x2f\\xfd":
        with pyarrow.CompressedInputStream(pyarrow.OSFile(path), "zstd") as stream:
            return stream.read().decode("utf-8-sig")
    with open(path, encoding="utf-8-sig", newline="") as file:
        return file.read()'''

DETECT = '''def to_train_on(rows: list) -> list:
    """The rows in the form that most of the first have, as rows to train on."""

    def fitting(form: tuple) -> int:
        columns, when, _ = form
        return sum(
            all(row.get(column) is not None for column in columns) and (when is None or when(row))
            for row in rows[:{first}]
        )

    best = max(FORMS, key=fitting)
    return [best[2](row) for row in rows] if fitting(best) else rows'''

IMPORTS = ("import csv", "import gzip", "import io", "import json", "import pyarrow", "import pyarrow.parquet")


@dataclass(frozen=True)
class DataFile:
    """A dataset as a script finds it: its name, container, and form; without a form its first rows decide."""

    name: str
    container: str = "jsonl"
    form: str | None = None


@dataclass(frozen=True)
class DataSource:
    """Source that defines `read_rows(path)` and, with a second file, `read_eval_rows(path)`; what it is made of."""

    source: str
    roots: tuple[Name, ...]


def data_source(training_type: str, train: DataFile, evaluation: DataFile | None) -> DataSource:
    """How these files are read; raises InvalidInput for a form that the method does not have."""
    files = {"read_rows": train, **({"read_eval_rows": evaluation} if evaluation else {})}
    parts, roots = [], []
    if any(file.container in PACKED for file in files.values()):
        parts.append(TEXT)
    forms = {name: _form(training_type, file) for name, file in files.items()}
    if None in forms.values():
        parts += [_table(training_type), DETECT.replace("{first}", str(DETECT_ROWS))]
        for form in METHODS[training_type]:
            roots += [_root(form.convert), *([_root(form.when)] if form.when else [])]
    for name, file in files.items():
        found = forms[name]
        if found is not None:
            roots.append(_root(found.convert))
        parts.append(_reader(name, file.container, "to_train_on" if found is None else found.convert.__name__))
    if "plain" not in "".join(parts):
        roots = [root for root in roots if root[1] != "plain"]
    return DataSource("\n\n\n".join(parts), tuple(dict.fromkeys(roots)))


def _form(training_type: str, file: DataFile) -> Form | None:
    return None if file.form is None else form_named(training_type, file.form)


def _reader(name: str, container: str, convert: str) -> str:
    read = READERS[container]
    if convert == "plain":
        return f"def {name}(path: str) -> list:\n{read}"
    start, _, value = read.rpartition("    return ")
    if convert == "to_train_on":
        return f"def {name}(path: str) -> list:\n{start}    return to_train_on({value})"
    return f"def {name}(path: str) -> list:\n{start}    rows = {value}\n    return [{convert}(row) for row in rows]"


def _table(training_type: str) -> str:
    lines = [
        f"    ({form.columns!r}, {form.when.__name__ if form.when else None}, {form.convert.__name__}),"
        for form in METHODS[training_type]
    ]
    purpose = "# The columns that a row must have, what else tells the form, and what makes it a row to train on."
    return "\n".join([purpose, "FORMS = (", *lines, ")"])


def _root(function: object) -> Name:
    return str(function.__module__), str(function.__name__)  # type: ignore[attr-defined]
