"""Leases: people's own commands as jobs, so that nobody has to go around the queue."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import UserRow
from opensloth.accounts.scopes import allows
from opensloth.devices.rows import DeviceRow, HostRow
from opensloth.errors import FieldError, InvalidInput, NotAllowed
from opensloth.jobs.admission import new_row
from opensloth.jobs.command_spec import SCHEMA_VERSION, CommandSpec, parse_command_spec
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService
from opensloth.jobs.views import JobView


class LeaseService:
    """Accepts commands; everything else about them is what it is for any job."""

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs

    def submit(
        self, body: Any, caller: Caller, idempotency_key: str | None = None, *, retry: Retry | None = None
    ) -> tuple[JobView, bool]:
        """Accept a command; the second value is False where the idempotency key had made it.

        Raises InvalidInput, and NotAllowed where no host runs commands or the caller has no account there.
        """

        def insert(session: Session, job_id: str, spec: CommandSpec) -> JobRow:
            _require_host(session, spec)
            _require_account(session, caller)
            row = new_row(
                job_id,
                body,
                spec,
                caller,
                kind="command",
                name=spec.name.strip() or spec.line[:128],
                schema_version=SCHEMA_VERSION,
                device_count=max(1, spec.gpus),
                exclusive=True,
                max_retries=0,
                model_id="",
            )
            self._jobs.admission.add(session, row, [], caller)
            return row

        return self._jobs.admission.take(
            {"lease": body}, lambda: parse_command_spec(body), insert, caller, idempotency_key, retry
        )


def _require_host(session: Session, spec: CommandSpec) -> None:
    hosts = session.execute(
        select(HostRow.facts, func.count(DeviceRow.id))
        .join(DeviceRow, DeviceRow.host_id == HostRow.id)
        .group_by(HostRow.id)
    ).all()
    counts = [count for facts, count in hosts if facts.get("leases")]
    if not counts:
        raise NotAllowed(
            "no host runs people's own commands",
            code="leases_off",
            hint="an admin turns it on with OPENSLOTH_LEASES=on on the workers",
        )
    if max(counts) < spec.gpus:
        message = f"the largest host for commands has {max(counts)} device{'s' * (max(counts) != 1)}"
        raise InvalidInput(
            "no host can hold this command", code="unplaceable", fields=[FieldError("gpus", message, "unplaceable")]
        )


def _require_account(session: Session, caller: Caller) -> None:
    if not allows(caller.scopes, "commands", "write"):
        # Asked here too, as a command can be tried again with what is enough for any job.
        raise NotAllowed("this key is not for commands", code="missing_scope", hint="it needs commands:write")
    user = session.get(UserRow, caller.owner)
    if user is None or user.account is None:
        raise NotAllowed(
            f"{caller.owner} has no account on the workers' hosts",
            code="no_account",
            hint="an admin names one; commands run under it",
        )
