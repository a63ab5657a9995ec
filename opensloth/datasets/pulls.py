"""Datasets of the hub as files of ours: asked for by jobs and people, fetched by one worker, each commit once."""

from __future__ import annotations

import secrets as random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import or_, select, tuple_, update
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, require_visible, visible_to
from opensloth.accounts.secrets import SecretService
from opensloth.database import Database, after_commit, db_now, insert_of, now_of
from opensloth.datasets.hub_fetch import fetch, file_name, find
from opensloth.datasets.hub_names import SPELLING, HubDataset, parse_hub_dataset
from opensloth.datasets.rows import DatasetPullRow, FileRow
from opensloth.datasets.service import FileService, Origin
from opensloth.errors import FieldError, InvalidInput, OpenSlothError, TooLarge, Unavailable
from opensloth.events.publisher import Publisher
from opensloth.settings import Settings
from opensloth.storage import Storage

OnEnd = Callable[[Session, DatasetPullRow], None]
_CHUNK_BYTES = 2**20


class PullView(BaseModel):
    """The fetching of a dataset of the hub; `file` is there once it is ready. `created_at` in seconds since 1970."""

    id: str
    object: Literal["dataset_pull"] = "dataset_pull"
    dataset: str
    status: Literal["importing", "ready", "failed"]
    file: str | None = None
    reason: str | None = None
    error: str | None = None
    created_at: int

    @classmethod
    def of(cls, row: DatasetPullRow) -> PullView:
        """The view of a stored row."""
        return cls.model_validate(
            {
                "id": row.id,
                "dataset": row.source,
                "status": row.status,
                "file": row.file_id,
                "reason": row.reason,
                "error": row.error,
                "created_at": int(row.created_at),
            }
        )


@dataclass(frozen=True)
class _Ended:
    status: Literal["ready", "failed"]
    file_id: str | None = None
    reason: str | None = None
    error: str | None = None


class PullService:
    """Asks for datasets, and fetches them on a worker; `on_end` lets the jobs that wait go on, or fails them."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        files: FileService,
        secrets: SecretService,
        publisher: Publisher,
        on_end: OnEnd,
    ) -> None:
        self._db = database
        self._storage = storage
        self._settings = settings
        self._files = files
        self._secrets = secrets
        self._publisher = publisher
        self._on_end = on_end

    # Asking

    def create(self, dataset: str, secret: str | None, caller: Caller) -> PullView:
        """Fetch a dataset now; one that is being fetched already is not fetched twice. Raises InvalidInput."""
        with self._db.write() as session:
            if secret is not None:
                self._secrets.require(session, caller.owner, secret, "secret")
            pull = self.ask(session, dataset, secret, caller, "dataset")
            record(session, caller, "dataset.pull", pull.id, dataset=dataset)
            return PullView.of(pull)

    def ask(self, session: Session, dataset: str, secret: str | None, caller: Caller, field: str) -> DatasetPullRow:
        """The open pull of a dataset, begun here if there is none; raises InvalidInput naming `field`."""
        if parse_hub_dataset(dataset) is None:
            message = f"{dataset[:100]!r} is no dataset of the hub; write {SPELLING}"
            raise InvalidInput("a dataset cannot be found", fields=[FieldError(field, message, "dataset_not_found")])
        now = now_of(session)
        values = {"owner": caller.owner, "source": dataset, "secret": secret or "", "status": "importing"}
        same = [getattr(DatasetPullRow, name) == value for name, value in values.items()]
        while True:
            pull_id = f"pull-{random.token_hex(12)}"
            session.execute(
                insert_of(session)(DatasetPullRow)
                .values(id=pull_id, team=caller.team, created_at=now, **values)
                .on_conflict_do_nothing()
            )
            # Locked, so that it does not end between this look and the insert of the job that waits for it.
            row = session.scalar(select(DatasetPullRow).where(*same).with_for_update(read=True))
            if row is not None:
                after_commit(session, self._publisher.wake_planner)
                return row

    def known(self, session: Session, dataset: str, caller: Caller) -> FileRow | None:
        """The file of a dataset that names a commit, if it was fetched before: it stands for the same rows for ever."""
        wanted = parse_hub_dataset(dataset)
        if wanted is None or not wanted.is_fixed:
            return None
        return _same_file(session, caller.team, wanted, str(wanted.revision))

    # Reading

    def get(self, pull_id: str, caller: Caller) -> PullView:
        """One pull of the caller's team; raises NotFound."""
        with self._db.read() as session:
            row = session.get(DatasetPullRow, pull_id)
        return PullView.of(require_visible(row, caller, f"pull {pull_id!r}", hint="GET /v1/pulls lists them"))

    def list(self, caller: Caller, limit: int, after: str | None = None) -> tuple[list[PullView], bool]:
        """The pulls of the caller's team, newest first, and whether more follow."""
        query = select(DatasetPullRow).where(visible_to(caller, DatasetPullRow.team))
        with self._db.read() as session:
            if after is not None:
                last = session.get(DatasetPullRow, after)
                if last is None or not caller.can_see(last.team):
                    raise InvalidInput("the page cannot be found", fields=[FieldError("after", f"no pull {after!r}")])
                place = tuple_(DatasetPullRow.created_at, DatasetPullRow.id)
                query = query.where(place < tuple_(last.created_at, last.id))
            order = DatasetPullRow.created_at.desc(), DatasetPullRow.id.desc()
            rows = session.scalars(query.order_by(*order).limit(limit + 1)).all()
        return [PullView.of(row) for row in rows[:limit]], len(rows) > limit

    # Fetching

    def claim(self, host_id: str) -> str | None:
        """Take one pull that waits; returns its id."""
        open_ones = (
            DatasetPullRow.status == "importing",
            or_(DatasetPullRow.import_until.is_(None), DatasetPullRow.import_until < db_now()),
        )
        with self._db.read() as session:
            oldest = select(DatasetPullRow.id).where(*open_ones).order_by(DatasetPullRow.created_at).limit(1)
            pull_id = session.scalar(oldest)
        if pull_id is None:
            return None
        with self._db.write() as session:
            return session.scalar(
                update(DatasetPullRow)
                .where(DatasetPullRow.id == pull_id, *open_ones)
                .values(importer=host_id, import_until=db_now() + self._settings.lease_s)
                .returning(DatasetPullRow.id)
            )

    def renew(self, pull_id: str, host_id: str) -> None:
        """Keep a claimed pull."""
        with self._db.write() as session:
            session.execute(
                update(DatasetPullRow)
                .where(DatasetPullRow.id == pull_id, DatasetPullRow.importer == host_id, _IS_OPEN)
                .values(import_until=db_now() + self._settings.lease_s)
            )

    def run(self, pull_id: str, host_id: str) -> None:
        """Do a claimed pull and write how it ended; raises Unavailable where it cannot be written."""
        with self._db.read() as session:
            pull = session.get_one(DatasetPullRow, pull_id)
        try:
            ended = _Ended("ready", file_id=self._file_of(pull))
        except OpenSlothError as error:
            if isinstance(error, Unavailable) and error.error_code != "storage_full":
                raise
            ended = _Ended("failed", reason=_reason(error), error=_sentence(error))
        except Exception as error:
            ended = _Ended("failed", reason="internal_error", error=f"{type(error).__name__}: {error}"[:500])
        with self._db.write() as session:
            if ended.file_id and session.get(FileRow, ended.file_id, with_for_update={"read": True}) is None:
                # Deleted since it was found: the claim is left to run out, and it is fetched again.
                return
            row = session.scalar(
                update(DatasetPullRow)
                .where(DatasetPullRow.id == pull_id, DatasetPullRow.importer == host_id, _IS_OPEN)
                .values(
                    status=ended.status,
                    file_id=ended.file_id,
                    reason=ended.reason,
                    error=ended.error,
                    importer=None,
                    import_until=None,
                )
                .returning(DatasetPullRow)
                .execution_options(populate_existing=True)
            )
            if row is not None:
                self._on_end(session, row)
                after_commit(session, self._publisher.wake_planner)

    def _file_of(self, pull: DatasetPullRow) -> str:
        """The id of the file with the rows that the pull asks for, fetched unless this commit is here already."""
        wanted = parse_hub_dataset(pull.source)
        assert wanted is not None
        self._files.require_room()
        token = self._secrets.value(pull.owner, pull.secret) if pull.secret else None
        found = find(wanted, token, self._settings.max_upload_bytes)
        with self._db.read() as session:
            known = _same_file(session, pull.team, wanted, found.repository.commit)
        if known is not None:
            return known.id
        scratch = self._storage.scratch(self._settings.home.expanduser() / "imports")
        folder = Path(tempfile.mkdtemp(prefix=f"{pull.id}-", dir=scratch))
        try:
            path = fetch(found, folder, self._settings)
            origin = Origin(wanted.rows, found.repository.commit)
            caller = Caller(pull.owner, "member", pull.team)
            return self._files.create(file_name(found, path), _pieces(path), caller, origin=origin).id
        finally:
            shutil.rmtree(folder, ignore_errors=True)


_IS_OPEN = DatasetPullRow.status == "importing"


def _same_file(session: Session, team: str, wanted: HubDataset, commit: str) -> FileRow | None:
    return session.scalar(
        select(FileRow)
        .where(FileRow.team == team, FileRow.source == wanted.rows, FileRow.commit == commit)
        .order_by(FileRow.created_at.desc())
        .limit(1)
    )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            yield piece


def _reason(error: OpenSlothError) -> str:
    """The reason of a job that cannot have this dataset."""
    if isinstance(error, InvalidInput | TooLarge) and error.error_code != "dataset_not_found":
        return "dataset_error"
    return "storage_error" if error.error_code in ("storage_full", "insufficient_storage") else error.error_code


def _sentence(error: OpenSlothError) -> str:
    """Message, first field and cure in one line."""
    return "; ".join(part for part in (error.message, error.hint) if part)
