"""The part of `client.jobs` that changes jobs: stop, pause, resume, retry, order and delete them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from opensloth.remote.shapes import Job
from opensloth.remote.transport import Transport


class JobControl:
    """What is done to one job; each method raises NotFound, NotAllowed, or Conflict with a hint."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def cancel(self, job_id: str, *, save: bool = True) -> Job:
        """Asks a job to stop, with a checkpoint unless `save` is false; one that has ended already raises Conflict."""
        return self._post(job_id, "cancel", None if save else {"save": False})

    def pause(self, job_id: str) -> Job:
        """Takes a job out of the queue, or off its devices to a checkpoint, until it is resumed."""
        return self._post(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Queues a paused job again; raises Conflict while it still stops."""
        return self._post(job_id, "resume")

    def retry(self, job_id: str, *, from_checkpoint: bool = False, idempotency_key: str | None = None) -> Job:
        """Submits the spec of a job that is over again; the answer is the new job."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._post(job_id, "retry", {"from_checkpoint": from_checkpoint}, headers=headers)

    def move(self, job_id: str, *, before: str | None = None, to: str | None = None) -> Job:
        """Puts a job before another of one's own, or to the `front` or the `back` of them."""
        body = {"before": before, "to": to}
        return self._post(job_id, "move", {name: value for name, value in body.items() if value is not None})

    def set_priority(self, job_id: str, priority: str) -> Job:
        """Sets low, normal, high or urgent; raising it is for admins."""
        return self._patch(job_id, {"priority": priority})

    def keep(self, job_id: str, keep: bool = True) -> Job:
        """Whether what the job left is kept, whatever its age."""
        return self._patch(job_id, {"keep": keep})

    def delete(self, job_id: str) -> None:
        """Deletes a job that is over, with its checkpoints, logs and result."""
        self._transport.request("DELETE", _path(job_id))

    def lease(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submits a command of one's own: `{"command": ["python", "mine.py"], "time_limit": "2h"}`.

        The answer is a job; its log is the command's output.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return Job(**self._transport.json("POST", "/v1/leases", json=dict(spec), headers=headers, idempotent=True))

    def _post(self, job_id: str, action: str, body: dict[str, Any] | None = None, **options: Any) -> Job:
        # Each of these asked for twice is asked for once, so that it may be sent again when the connection was lost.
        sent = options if body is None else {**options, "json": body}
        return Job(**self._transport.json("POST", f"{_path(job_id)}/{action}", idempotent=True, **sent))

    def _patch(self, job_id: str, body: dict[str, Any]) -> Job:
        return Job(**self._transport.json("PATCH", _path(job_id), json=body, idempotent=True))


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"
