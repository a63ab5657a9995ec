"""What users and teams hold, and the refusal of what would be beyond their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import TEAM_HOLDER, SecretRow, TeamRow, UsageRow, UserRow
from opensloth.accounts.usage import DAY_S, HOUR_S, month_start
from opensloth.database import db_now
from opensloth.datasets.rows import FileRow
from opensloth.datasets.upload_rows import UploadRow
from opensloth.errors import QuotaExceeded
from opensloth.jobs.rows import CheckpointRow, JobRow
from opensloth.jobs.situation import read_situation, spent_since
from opensloth.jobs.states import State
from opensloth.models.rows import ModelRow
from opensloth.settings import Settings
from opensloth.webhooks.rows import WebhookRow

Kind = Literal["user", "team"]
_BELONG = ((JobRow, "jobs"), (FileRow, "files"), (ModelRow, "models"), (WebhookRow, "webhooks"))
TO_COME = [State.WAITING.value, State.QUEUED.value, State.PAUSED.value]
"""The states that count against `max_queued`."""


@dataclass(frozen=True)
class Held:
    """What somebody has at the moment."""

    queued: int
    devices: int
    """A shared one counts once for each of the jobs on it."""
    bytes: int
    device_hours: float
    """In this calendar month (UTC), what runs included."""


def require_room(session: Session, user: UserRow | None, team: TeamRow | None) -> None:
    """Raise QuotaExceeded where a new job's user or team has as many waiting, or as much stored, as it may."""
    for kind, name, limits in _limited(session, user, team):
        if limits.max_queued is not None and queued(session, kind, name) >= limits.max_queued:
            raise QuotaExceeded(
                f"the {kind} {name} may have {limits.max_queued} jobs waiting, and has as many",
                hint="wait until one has started, cancel one, or ask an admin for a higher limit",
            )
        _require_bytes(session, kind, name, limits.max_bytes, 0)


def require_bytes(session: Session, caller: Caller, more: int) -> None:
    """Raise QuotaExceeded where `more` bytes would be beyond what the caller or the team may store."""
    user, team = session.get(UserRow, caller.owner), session.get(TeamRow, caller.team)
    for kind, name, limits in _limited(session, user, team):
        _require_bytes(session, kind, name, limits.max_bytes, more)


def held(session: Session, settings: Settings, kind: Kind, name: str) -> Held:
    """What a user or team has now."""
    seen = read_situation(session, settings, with_queue=False)
    month = month_start(seen.now)
    mine = [job for job in seen.running if name == (job.owner if kind == "user" else job.team)]
    booked = select(func.sum(UsageRow.device_s)).where(UsageRow.day >= int(month // DAY_S), _is(UsageRow, kind, name))
    running_s = sum(device_s for _, _, device_s in spent_since(mine, seen.devices, seen.now, month))
    return Held(
        queued=queued(session, kind, name),
        devices=sum(len(job.device_ids) for job in mine),
        bytes=stored(session, kind, name),
        device_hours=((session.scalar(booked) or 0.0) + running_s) / HOUR_S,
    )


def queued(session: Session, kind: Kind, name: str) -> int:
    """How many jobs wait, are queued or are paused."""
    count = select(func.count()).where(JobRow.state.in_(TO_COME), _is(JobRow, kind, name))
    return session.scalar(count) or 0


def stored(session: Session, kind: Kind, name: str) -> int:
    """Bytes of files, checkpoints and results, and of uploads that are under way."""
    checkpoints = select(func.sum(CheckpointRow.bytes)).join(JobRow, JobRow.id == CheckpointRow.job_id)
    sums = (
        select(func.sum(FileRow.bytes)).where(_is(FileRow, kind, name)),
        checkpoints.where(_is(JobRow, kind, name)),
        select(func.sum(ModelRow.bytes)).where(ModelRow.kind == "result", _is(ModelRow, kind, name)),
    )
    coming = select(func.sum(UploadRow.bytes)).where(
        UploadRow.status == "pending", UploadRow.expires_at > db_now(), _is(UploadRow, kind, name)
    )
    exports = select(JobRow.result).where(
        JobRow.kind.in_(("export", "evaluation")), JobRow.state == State.SUCCEEDED.value, _is(JobRow, kind, name)
    )
    # An export that is no model has its sizes in its result alone.
    made = (result for result in session.scalars(exports) if result and not result.get("model"))
    files = sum(int(artifact["bytes"]) for result in made for artifact in result.get("artifacts", []))
    return files + sum(int(session.scalar(total) or 0) for total in (*sums, coming))


def belongings(session: Session, kind: Kind, name: str) -> str | None:
    """In words what belongs to a user or team, as `3 jobs`; None: nothing."""
    for table, what in _BELONG:
        if count := session.scalar(select(func.count()).select_from(table).where(_is(table, kind, name))):
            return f"{count} {what}"
    if kind == "team" and session.scalar(select(SecretRow.name).where(SecretRow.owner == TEAM_HOLDER + name).limit(1)):
        return "secrets"
    return None


def _limited(session: Session, user: UserRow | None, team: TeamRow | None) -> list[tuple[Kind, str, UserRow | TeamRow]]:
    """The user and the team, each only where it has a limit, and locked then: no two take the last place at once."""
    found: list[tuple[Kind, str, UserRow | TeamRow]] = []
    if user is not None and (user.max_queued is not None or user.max_bytes is not None):
        found.append(("user", user.name, session.get_one(UserRow, user.name, with_for_update=True)))
    if team is not None and (team.max_queued is not None or team.max_bytes is not None):
        found.append(("team", team.name, session.get_one(TeamRow, team.name, with_for_update=True)))
    return found


def _require_bytes(session: Session, kind: Kind, name: str, limit: int | None, more: int) -> None:
    if limit is None:
        return
    used = stored(session, kind, name)
    if used >= limit or used + more > limit:
        raise QuotaExceeded(
            f"the {kind} {name} stores {used:,} bytes and may store {limit:,}"
            + (f"; {more:,} more do not fit" if more else ""),
            hint="delete files, models or jobs that are not needed, or ask an admin for a higher limit",
        )


def _is(table: Any, kind: Kind, name: str) -> ColumnElement[bool]:
    column = table.owner if kind == "user" else table.team
    condition: ColumnElement[bool] = column == name
    return condition
