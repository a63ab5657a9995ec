"""Who used how much of the box lately."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from pydantic import BaseModel, Field
from sqlalchemy import func, select

from opensloth.accounts.callers import Caller, visible_to
from opensloth.accounts.rows import UsageRow
from opensloth.accounts.usage import DAY_S
from opensloth.database import Database
from opensloth.jobs.situation import read_situation, spent_since
from opensloth.settings import Settings


class UsageView(BaseModel):
    """What one user used, in a team."""

    object: Literal["usage"] = "usage"
    owner: str
    team: str
    device_s: float = Field(description="Seconds times devices; a job that shares one counts for its part of it.")
    devices: int = Field(description="Held now.")


class UsageService:
    """Reads what was booked and what runs."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings

    def recent(self, caller: Caller, days: int = 7) -> list[UsageView]:
        """Use on the last `days` days (UTC), today included, of the users that the caller sees, most first."""
        used: dict[tuple[str, str], float] = defaultdict(float)
        held: dict[tuple[str, str], int] = defaultdict(int)
        with self._db.read() as session:
            seen = read_situation(session, self._settings, with_queue=False)
            first = int(seen.now // DAY_S) - days + 1
            booked = (
                select(UsageRow.owner, UsageRow.team, func.sum(UsageRow.device_s))
                .where(UsageRow.day >= first, visible_to(caller, UsageRow.team))
                .group_by(UsageRow.owner, UsageRow.team)
            )
            for owner, team, device_s in session.execute(booked):
                used[owner, team] += device_s
        for owner, team, device_s in spent_since(seen.running, seen.devices, seen.now, first * DAY_S):
            if caller.can_see(team):
                used[owner, team] += device_s
        for job in seen.running:
            if caller.can_see(job.team):
                held[job.owner, job.team] += len(job.device_ids)
        ranked = sorted(used, key=lambda key: (-used[key], key))
        return [
            UsageView(owner=owner, team=team, device_s=round(used[owner, team], 1), devices=held[owner, team])
            for owner, team in ranked
        ]
