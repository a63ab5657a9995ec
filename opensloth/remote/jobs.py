"""`client.jobs`: submit and watch jobs, and fetch what they made."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from opensloth.remote.errors import InvalidRequest
from opensloth.remote.follow import OnDrop, follow_events, follow_log
from opensloth.remote.job_control import JobControl
from opensloth.remote.pages import iterate
from opensloth.remote.shapes import Artifact, Checkpoint, Estimate, Event, Job, Page, Series
from opensloth.remote.transfer import ProgressCallback, download


class Jobs(JobControl):
    """Everything under `/v1/jobs`."""

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submits a job; raises InvalidRequest with the fields at fault.

        The same `idempotency_key` with the same spec gives the same job; without one each call makes a job, and only
        the retries of this call share a key.
        """
        try:
            body = json.dumps(dict(spec), allow_nan=False)
        except ValueError as problem:
            hint = "NaN and infinity are not numbers that a job can have."
            raise InvalidRequest(f"The spec cannot be sent: {problem}.", code="invalid_input", hint=hint) from None
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), "Content-Type": "application/json"}
        return Job(**self._transport.json("POST", "/v1/jobs", content=body, headers=headers, idempotent=True))

    def estimate(self, spec: Mapping[str, Any]) -> Estimate:
        """What a job would need, where it would fit and when it would start; raises InvalidRequest as `submit` does."""
        return Estimate(**self._transport.json("POST", "/v1/jobs/estimate", json=dict(spec), idempotent=True))

    def export(self, job_id: str, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submits an export of a job's result; its answer is a job of its own. Raises InvalidRequest."""
        path = f"/v1/jobs/{_segment(job_id)}/exports"
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return Job(**self._transport.json("POST", path, json=dict(spec), headers=headers, idempotent=True))

    def exports(self, job_id: str) -> list[Job]:
        """The exports of a job, newest first."""
        return Page.read(self._transport.json("GET", f"/v1/jobs/{_segment(job_id)}/exports"), Job).data

    def evaluate(self, job_id: str, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submits an evaluation of a job's result; its answer is a job of its own. Raises InvalidRequest."""
        path = f"/v1/jobs/{_segment(job_id)}/evaluations"
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return Job(**self._transport.json("POST", path, json=dict(spec), headers=headers, idempotent=True))

    def evaluation(self, job_id: str, evaluation_id: str) -> dict[str, Any]:
        """One evaluation: its `job` and, once that has succeeded, its `summary`. Raises NotFound."""
        path = f"/v1/jobs/{_segment(job_id)}/evaluations/{_segment(evaluation_id)}"
        found: dict[str, Any] = self._transport.json("GET", path)
        return found

    def evaluation_rows(
        self, job_id: str, evaluation_id: str, *, changed: bool | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows of an evaluation, in order; `changed` picks those whose scores differ, or do not."""
        path = f"/v1/jobs/{_segment(job_id)}/evaluations/{_segment(evaluation_id)}/rows"
        params: dict[str, Any] = {"limit": 100} | ({} if changed is None else {"changed": changed})
        while True:
            page = self._transport.json("GET", path, params=params)
            yield from page["data"]
            if not page["has_more"]:
                return
            params["after"] = page["data"][-1]["row"]

    def get(self, job_id: str) -> Job:
        """One job; raises NotFound."""
        return Job(**self._transport.json("GET", f"/v1/jobs/{_segment(job_id)}"))

    def events(self, job_id: str, *, last_seq: int = 0, limit: int | None = None) -> Iterator[Event]:
        """The events stored so far after `last_seq`, oldest first."""
        params = {"after": last_seq} if last_seq else None
        return iterate(self._transport, f"/v1/jobs/{_segment(job_id)}/events", Event, limit=limit, params=params)

    def follow(
        self, job_id: str, last_seq: int = 0, *, patience_s: float = 300.0, on_drop: OnDrop | None = None
    ) -> Iterator[Event]:
        """Events after `last_seq` as they happen, until the job has ended; see `follow_events`."""
        return follow_events(self._transport, _segment(job_id), last_seq, patience_s=patience_s, on_drop=on_drop)

    def metrics(self, job_id: str, *, max_points: int | None = None) -> list[Series]:
        """Each metric over the steps, with at most `max_points` points if given."""
        params = {"max_points": max_points} if max_points is not None else None
        body = self._transport.json("GET", f"/v1/jobs/{_segment(job_id)}/metrics", params=params)
        return [Series(**entry) for entry in body.get("data", [])]

    def log(self, job_id: str) -> str:
        """The trainer's log so far."""
        return self._transport.request("GET", f"/v1/jobs/{_segment(job_id)}/logs").text

    def follow_log(self, job_id: str, *, patience_s: float = 300.0, on_drop: OnDrop | None = None) -> Iterator[str]:
        """The trainer's log and what is added to it, until the job has ended."""
        return follow_log(self._transport, _segment(job_id), patience_s=patience_s, on_drop=on_drop)

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """The job's complete checkpoints."""
        body = self._transport.json("GET", f"/v1/jobs/{_segment(job_id)}/checkpoints")
        return Page.read(body, Checkpoint).data

    def artifacts(self, job_id: str) -> list[Artifact]:
        """The files of the job's result."""
        body = self._transport.json("GET", f"/v1/jobs/{_segment(job_id)}/artifacts")
        return Page.read(body, Artifact).data

    def download_artifact(
        self, job_id: str, artifact: Artifact, folder: Path, *, progress: ProgressCallback | None = None
    ) -> Path:
        """Writes one file of the result into `folder`, verified by its SHA-256."""
        target = folder.joinpath(*safe_parts(artifact.name))
        path = f"/v1/jobs/{_segment(job_id)}/artifacts/{quote(artifact.name)}"
        return download(self._transport, path, target, sha256=artifact.sha256, progress=progress)

    def script(self, job_id: str) -> str:
        """A bare TRL script that trains the same without OpenSloth."""
        return self._transport.request("GET", f"/v1/jobs/{_segment(job_id)}/script").text

    def list(
        self,
        *,
        state: str | None = None,
        owner: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, through all pages."""
        params: dict[str, Any] = {"state": state, "owner": owner}
        params |= {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        wanted = {name: value for name, value in params.items() if value is not None}
        return iterate(self._transport, "/v1/jobs", Job, limit=limit, params=wanted)


def safe_parts(name: str) -> list[str]:
    """A server's file name as parts of a local path; raises ValueError for one that would leave its folder."""
    parts = name.replace("\\", "/").split("/")
    if any(part in {"", ".", ".."} or ":" in part for part in parts):
        raise ValueError(f"{name!r} is not a file name that can be written here")
    return parts


def _segment(job_id: str) -> str:
    return quote(job_id, safe="")
