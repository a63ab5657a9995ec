"""What a person types for a job: its id, the beginning of it, or `last`."""

from __future__ import annotations

from opensloth.client import Client, InvalidRequest, NotFound

PREFIX = "ftjob-"
SEARCHED = 1000
"""How many of the newest jobs are looked through for the beginning of an id."""
FULL_LENGTH = len(PREFIX) + 24


def job_id(client: Client, reference: str) -> str:
    """The id of the job that is meant; raises NotFound, or InvalidRequest if several could be."""
    if reference == "last":
        newest = next((job for job in client.jobs.list(limit=SEARCHED) if job.kind != "chat"), None)
        if newest is None:
            raise NotFound("There is no job yet.", code="not_found", hint="`opensloth submit FILE.yaml` makes one.")
        return newest.id
    wanted = reference if reference.startswith(PREFIX) else PREFIX + reference
    if len(wanted) >= FULL_LENGTH:
        return wanted
    found = [job for job in client.jobs.list(limit=SEARCHED) if job.id.startswith(wanted)]
    if not found:
        raise NotFound(
            f"No job begins with {reference!r} among the newest {SEARCHED}.",
            code="not_found",
            hint="`opensloth jobs` lists them; `last` is the newest.",
        )
    if len(found) > 1 and found[0].id != wanted:
        names = ", ".join(job.id for job in found[:5])
        raise InvalidRequest(f"{reference!r} could be {len(found)} jobs: {names}.", code="ambiguous")
    return found[0].id
