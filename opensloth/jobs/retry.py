"""What makes a new job the retry of one that is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from opensloth.errors import NotFound
from opensloth.jobs.rows import CheckpointRow, JobRow


@dataclass(frozen=True)
class Retry:
    """The job that is tried again, and the checkpoint to go on from; None is from the beginning."""

    job_id: str
    step: int | None = None

    def identify(self, body: Any) -> dict[str, Any]:
        """What tells this request from another under the same idempotency key."""
        return {"retry_of": self.job_id, "step": self.step, "body": body}

    def apply(self, session: Session, job_id: str) -> None:
        """Complete the new job `job_id`. The checkpoint stays where it is, in the folder of the job it was made by."""
        # Locked, so that it is not deleted between this look and the commit.
        earlier = session.get(JobRow, self.job_id, with_for_update={"read": True})
        if earlier is None:
            raise NotFound(f"there is no job {self.job_id!r}", hint="`opensloth jobs` lists them")
        row = session.get_one(JobRow, job_id)
        row.retry_of, row.request = self.job_id, earlier.request
        if self.step is None:
            return
        found = session.get_one(CheckpointRow, (self.job_id, self.step))
        values = {column.key: getattr(found, column.key) for column in CheckpointRow.__mapper__.columns}
        session.add(CheckpointRow(**{**values, "job_id": job_id, "attempt": 0}))
        session.flush()
