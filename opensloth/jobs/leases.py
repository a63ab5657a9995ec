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
from opensloth.jobs.command_spec import SCHEMA_VERSION, CommandSpec, parse_command_spec
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService, body_digest
from opensloth.jobs.spec import PRIORITIES
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
        asked = {"lease": body}
        digest = body_digest(asked if retry is None else retry.identify(asked))
        if idempotency_key is not None and (earlier := self._jobs.earlier(caller, idempotency_key, digest)):
            return earlier, False
        spec = parse_command_spec(body)
        if spec.priority == "urgent" and not caller.is_admin:
            raise NotAllowed("only an admin may submit urgent jobs", hint="use priority high, normal or low")

        def insert(session: Session, job_id: str) -> JobRow:
            _require_host(session, spec)
            _require_account(session, caller)
            row = JobRow(
                id=job_id,
                kind="command",
                name=spec.name.strip() or spec.line[:128],
                owner=caller.owner,
                team=caller.team,
                spec=dict(body),
                schema_version=SCHEMA_VERSION,
                user_metadata=dict(spec.metadata),
                priority=PRIORITIES[spec.priority],
                device_count=max(1, spec.gpus),
                exclusive=True,
                time_limit_s=spec.time_limit,
                max_retries=0,
                model_id="",
            )
            self._jobs.add(session, row, [], caller)
            if retry is not None:
                retry.apply(session, job_id)
            return row

        return self._jobs.accept(insert, digest, caller, idempotency_key)


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
