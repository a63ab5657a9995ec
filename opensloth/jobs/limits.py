"""Jobs that the limits of their user or team could never hold are refused when they are submitted."""

from __future__ import annotations

from opensloth.accounts.rows import TeamRow, UserRow
from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.rows import JobRow


def require_allowed(row: JobRow, user: UserRow | None, team: TeamRow | None) -> None:
    """Raise InvalidInput where a new job asks for more devices than its user or team may ever hold at once."""
    for account, whose in ((user, "you"), (team, "your team")):
        most = account.max_devices if account else None
        if most is not None and row.device_count > most:
            message = f"{whose} may hold {most} device{'s' * (most != 1)} at once, and the job asks for "
            raise InvalidInput(
                "this job could never start",
                code="over_quota",
                fields=[FieldError("resources.gpus", f"{message}{row.device_count}", "over_quota")],
                hint="ask for fewer devices, or an admin for a higher limit",
            )
