"""The server's objects as the client reads them: tolerant, so that a newer server's fields pass through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""The states that never change."""


class Shape(BaseModel):
    """An object of the HTTP interface; fields that are not declared here are kept as they came."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def as_json(self) -> dict[str, Any]:
        """The object as the server sent it."""
        return self.model_dump(mode="json", exclude_unset=True)


class Progress(Shape):
    """How far training is; `eta_s` in seconds, `percent` 0 to 100."""

    step: int = 0
    max_steps: int | None = None
    epoch: float | None = None
    tokens: int | None = None
    percent: float | None = None
    eta_s: float | None = None


class Artifact(Shape):
    """A file of a result; `sha256` in hexadecimal."""

    name: str
    bytes: int = 0
    sha256: str | None = None


class Result(Shape):
    """What a job made: `model` can be named as `model_name` of the next job."""

    model: str | None = None
    artifacts: list[Artifact] = []
    exit_code: int | None = None


class Told(Shape):
    """What a job that waits is told; `expected_start` is RFC 3339, None where nobody can know it yet."""

    position: int | None = None
    waiting_for: str | None = None
    expected_start: str | None = None


class QueueEntry(Told):
    """One place of the queue; a job of another team has no id, name or owner."""

    id: str | None = None
    name: str | None = None
    owner: str | None = None
    team: str | None = None
    priority: str | None = None
    devices: int = 1
    promised_start: str | None = None


class Use(Shape):
    """What a user had of the devices, in device-seconds; `devices` are held now."""

    owner: str
    team: str | None = None
    device_s: float = 0.0
    devices: int = 0


class JobError(Shape):
    """Why a job failed, and the last lines of its log."""

    code: str = "error"
    message: str = ""
    hint: str | None = None
    log_tail: str | list[str] | None = None


class Job(Shape):
    """A job; times are RFC 3339 or None."""

    id: str
    kind: str = "training"
    export_of: str | None = None
    name: str | None = None
    owner: str | None = None
    team: str | None = None
    state: str
    reason: str | None = None
    queue: Told | None = None
    attempt: int = 0
    phase: str | None = None
    spec: dict[str, Any] = {}
    resolved: dict[str, Any] | None = None
    progress: Progress | None = None
    metrics: dict[str, Any] | None = None
    devices: list[str] | None = None
    data: dict[str, Any] | None = None
    dataset_id: str | None = None
    eval_dataset_id: str | None = None
    created_at: str | None = None
    queued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    run_s: float | None = None
    result: Result | None = None
    error: JobError | None = None
    metadata: dict[str, str] | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is in a state that never changes."""
        return self.state in ENDED


class Estimate(Shape):
    """What a job would need on each of its devices; sizes in bytes, None where nothing is known."""

    basis: str = "unknown"
    memory_bytes: int | None = None
    peak_bytes: int | None = None
    parts: dict[str, int] | None = None
    assumed: dict[str, Any] | None = None
    disk: dict[str, Any] | None = None
    duration: dict[str, Any] | None = None
    devices: int = 1
    fits: list[dict[str, Any]] = []
    placeable: bool = True
    notes: list[str] = []
    queue: dict[str, Any] | None = None


class Event(Shape):
    """Something that happened to a job; `seq` counts from 1 within the job."""

    job_id: str | None = None
    seq: int = 0
    attempt: int | None = None
    type: str
    level: str = "info"
    time: str | float | None = None
    message: str | None = None
    data: dict[str, Any] = {}

    @property
    def ends_the_job(self) -> bool:
        """Whether nothing can follow this event."""
        return self.type == "state" and self.data.get("to") in ENDED


class File(Shape):
    """A file, uploaded or fetched from the hub (`source`, `commit`); `created_at` in seconds since 1970."""

    id: str
    bytes: int = 0
    created_at: int = 0
    filename: str = ""
    purpose: str | None = None
    status: str | None = None
    status_details: str | None = None
    source: str | None = None
    commit: str | None = None


class Model(Shape):
    """A base model or a job's result."""

    id: str
    created: int = 0
    owned_by: str | None = None
    status: str | None = None
    kind: str | None = None
    source: str | None = None
    base: str | None = None
    job_id: str | None = None
    error: Any = None
    bytes: int | None = None


class Checkpoint(Shape):
    """A complete checkpoint of a job."""

    step: int
    bytes: int | None = None
    created_at: str | float | None = None
    metrics: dict[str, Any] | None = None


class Series(Shape):
    """One metric over the steps: `points` of {step, value, time}."""

    name: str
    points: list[dict[str, Any]] = []


class Reward(Shape):
    """What GRPO can score answers with; `column_parameters` name other `columns`; `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    columns: list[str] = []
    column_parameters: list[str] = []
    source: str | None = None


class Secret(Shape):
    """A secret without its value, which nothing shows again; times are RFC 3339."""

    name: str
    team: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


class Holder(Shape):
    """A job on a device; of another team only its memory is known. Sizes in bytes."""

    job_id: str | None = None
    name: str | None = None
    owner: str | None = None
    memory_bytes: int | None = None
    used_bytes: int | None = None


class Device(Shape):
    """A GPU or CPU slot; sizes in bytes, utilization in per cent, temperature in degrees Celsius.

    `health` is ok, draining, quarantined or away; `jobs` are the ids on it, None for those of another team.
    """

    id: str
    host_id: str = ""
    kind: str | None = None
    index: int = 0
    name: str | None = None
    health: str | None = None
    memory_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    foreign_bytes: int = 0
    utilization: int | None = None
    temperature: int | None = None
    draining: bool = False
    quarantined: str | None = None
    quarantined_at: str | None = None
    jobs: list[str | None] = []
    holders: list[Holder] = []


class Key(Shape):
    """An API key without its secret; `key` is there only in the answer that made it."""

    id: str
    owner: str | None = None
    role: str | None = None
    scopes: list[str] | None = None
    prefix: str | None = None
    key: str | None = None
    created_at: str | float | None = None
    expires_at: str | float | None = None
    revoked_at: str | float | None = None
    last_used_at: str | float | None = None
    requests_per_minute: int | None = None


class Limited(Shape):
    """What a user or team may have; None is without limit."""

    name: str
    share: float = 1.0
    max_devices: int | None = None
    max_queued: int | None = None
    device_hours: float | None = None
    max_bytes: int | None = None
    requests_per_minute: int | None = None


class User(Limited):
    """A person or program that keys speak for."""

    role: str | None = None
    team: str | None = None
    disabled: bool = False


class Team(Limited):
    """People who see each other's work."""


class AuditEntry(Shape):
    """One thing that somebody did; `time` is RFC 3339."""

    id: str
    time: str | None = None
    actor: str = ""
    action: str = ""
    object_id: str = ""
    data: dict[str, Any] = {}


class Me(Shape):
    """Who the key in use stands for; `user` and `its_team` hold what each `may_have` and `has`."""

    name: str
    team: str
    role: str
    scopes: list[str] | None = None
    key: Key | None = None
    user: dict[str, Any] = {}
    its_team: dict[str, Any] = {}


ShapeT = TypeVar("ShapeT", bound=Shape)


@dataclass(frozen=True)
class Page(Generic[ShapeT]):
    """One page of a list."""

    data: list[ShapeT]
    has_more: bool
    last_id: str | None

    @classmethod
    def read(cls, body: dict[str, Any], shape: Callable[..., ShapeT]) -> Page[ShapeT]:
        """The page in a list's JSON."""
        data = [shape(**entry) for entry in body.get("data", [])]
        last = body.get("last_id") or (getattr(data[-1], "id", None) if data else None)
        return cls(data, bool(body.get("has_more")), str(last) if last is not None else None)
