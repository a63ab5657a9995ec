import errno
from pathlib import Path

import pytest
from sqlalchemy import update

from opensloth.accounts.keys import Caller
from opensloth.database import Base, Database
from opensloth.datasets import isolated
from opensloth.datasets.report import OLDEST_CHECK
from opensloth.datasets.rows import FileCheckRow, FileRow
from opensloth.datasets.service import FileService
from opensloth.datasets.serving import require_for_training
from opensloth.datasets.upload import clean_filename
from opensloth.errors import InsufficientStorage, InvalidDataset, InvalidInput, Unavailable
from opensloth.settings import Settings
from opensloth.storage import Storage

BOB = Caller("bob", "member")
ROW = b'{"text": "a"}\n'


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path / 'test.db'}")
    Base.metadata.create_all(made.engine)
    return made


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileService:
    settings = Settings(home=tmp_path / "home")
    return FileService(database, Storage(str(tmp_path / "storage")), settings, lambda session, file_id: None)


def left_behind(tmp_path: Path) -> list[Path]:
    return [path for folder in ("home", "storage") for path in (tmp_path / folder).rglob("*") if path.is_file()]


def test_a_commit_that_fails_leaves_no_content_behind(files, database, tmp_path):
    FileRow.__table__.drop(database.engine)
    with pytest.raises(Unavailable):
        files.create("a.jsonl", [ROW], BOB)
    assert left_behind(tmp_path) == []


def test_a_full_disk_says_so_and_leaves_nothing_behind(files, tmp_path, monkeypatch):
    def full(self: object, local: Path, key: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Storage, "put_file", full)
    with pytest.raises(InsufficientStorage, match="disk is full"):
        files.create("a.jsonl", [ROW], BOB)
    assert left_behind(tmp_path) == []


def test_a_second_upload_of_a_content_uses_the_stored_check(files, tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "a"}]), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    first = files.create("a.parquet", [content], BOB)
    monkeypatch.setattr(isolated, "check_isolated", None)
    second = files.create("b.parquet", [content], BOB)
    assert first.id != second.id
    assert files.check(first.id, BOB) == files.check(second.id, BOB)


def test_a_check_by_older_rules_is_not_relied_on(files, database):
    file = files.create("a.jsonl", [ROW], BOB)
    with database.write() as session:
        assert require_for_training(session, file.id, "sft", "dataset", BOB).id == file.id
        session.execute(update(FileCheckRow).values(version=OLDEST_CHECK - 1))
        with pytest.raises(InvalidDataset, match="checked again") as caught:
            require_for_training(session, file.id, "sft", "dataset", BOB)
    assert caught.value.fields[0].path == "dataset"


def test_an_unknown_file_is_named_by_the_field_that_names_it(files, database):
    with database.read() as session, pytest.raises(InvalidInput) as caught:
        require_for_training(session, "file-none", "sft", "eval_dataset", BOB)
    assert caught.value.fields[0].path == "eval_dataset"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("data.jsonl", "data.jsonl"),
        ("/etc/passwd", "passwd"),
        ("..", "file"),
        ("", "file"),
        ("a\0b\x1b[31m\u202e.txt", "ab[31m.txt"),
        ("日本.csv", "日本.csv"),
        ("x" * 300, "x" * 255),
        ("C:\\temp\\a.csv", "a.csv"),
    ],
)
def test_a_file_name_is_shown_without_folders_and_control_characters(sent, shown):
    assert clean_filename(sent) == shown
