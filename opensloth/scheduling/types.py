"""What the policy sees of the world and what it answers; times are seconds since 1970, sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that wants devices; `priority` is its class rank: 0 low, 1 normal, 2 high, 3 urgent."""

    id: str
    owner: str
    priority: int
    queued_at: float
    devices: int
    not_before: float | None = None
    team: str = ""
    memory: int | None = None
    """Bytes it needs on each of its devices; a job that does not know takes whole devices."""
    exclusive: bool = False
    expected_s: float | None = None
    """How long it is expected to hold its devices from now on, the time limit included."""
    time_limit_s: float | None = None
    """What is left of its time limit; it is stopped then."""
    own_rank: int = 0
    """Order among the owner's own jobs of one class, lowest first; age decides between equals."""
    takes_turns: bool = False
    """It leaves others of its kind the devices until their turn has ended (`Running.turn_ends`): a chat engine."""

    @property
    def whole(self) -> bool:
        """Whether it lets no other job onto its devices."""
        return self.exclusive or self.memory is None

    @property
    def longest_s(self) -> float:
        """How long it will hold devices at the most, as far as anyone can say."""
        expected, limit = self.expected_s, self.time_limit_s
        if limit is None:
            return float("inf") if expected is None else expected
        return limit if expected is None or limit < expected else expected


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a host that is alive."""

    id: str
    host_id: str
    index: int
    memory: int = 0
    """Bytes in all; 0 if not known, then it takes one job at a time."""
    foreign: int = 0
    """Bytes that processes which are not ours hold."""
    usable: bool = True
    """Not while it drains or is quarantined: what runs there stays, nothing starts."""


@dataclass(frozen=True, slots=True)
class Running:
    """What holds devices now."""

    job_id: str
    device_ids: tuple[str, ...]
    owner: str = ""
    team: str = ""
    priority: int = 1
    started_at: float = 0.0
    memory: int | None = None
    """Bytes on each device, the larger of estimate and measurement; None: it holds them whole."""
    expected_end: float | None = None
    preemptible_from: float = float("inf")
    """End of its minimum run time (`Rules.min_run_s`)."""
    promised_end: float | None = None
    """It was let past a job in front of it because it said that it would be gone by then."""
    stopping: bool = False
    """Its devices come free in moments."""
    turn_ends: float | None = None
    """Of one that takes turns: until then no other that does may have its devices."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a user or a team has used and may use."""

    used_s: float = 0.0
    """Device-seconds of ended attempts, decayed to now."""
    share: float = 1.0
    """Weight: of a user among the team, of a team among all."""
    max_devices: int | None = None
    """Devices at once."""
    device_s_left: float | None = None
    """What is left of the month's device-seconds; nothing starts at 0."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The accounts by name; who is not in them has used nothing and has no quota."""

    users: Mapping[str, Account] = field(default_factory=lambda: MappingProxyType({}))
    teams: Mapping[str, Account] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Rules:
    """What an administrator may turn; the defaults suit a team of ten on one box."""

    memory_margin: float = 0.06
    """Part of each device that is given to nobody, for what estimates miss."""
    max_sharers: int = 4
    """Jobs on one device; four small ones ran at 90% of their speed alone each."""
    patience_s: float = 2 * 3600
    """A job's own length counts against it less and less, until it has waited this long."""
    neglect_s: float = 24 * 3600
    """Who has nothing running and has waited this long goes first, whatever the class."""
    damping_s: float = 8 * 3600
    """Device-seconds per share that halve the fair-share factor."""
    unknown_s: float = 4 * 3600
    """What a job is taken to last when nobody knows."""
    min_run_s: float = 600.0
    """Before it has run this long a job is not preempted."""
    stop_s: float = 60.0
    """From asking a job to stop until its devices are free."""
    worth_preempting_s: float = 180.0
    """A job that is expected to start within this does not preempt."""
    examined: int = 4
    """How many blocked jobs a round looks at closely: they may preempt, the first one reserves."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Start `job_id` on these devices of one host."""

    job_id: str
    host_id: str
    device_ids: tuple[str, ...]
    promised_end: float | None = None
    """It goes past a blocked job and must be off these devices by then."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """Stop `job_id` to a checkpoint, so that `in_favour_of` starts."""

    job_id: str
    in_favour_of: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """The earliest moment at which a blocked job's devices are expected to be free."""

    job_id: str
    host_id: str
    device_ids: tuple[str, ...]
    start: float
    waits_for: str | None
    """The running job whose end makes it possible, if it is one."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a job does not start now.

    `code` is `devices` (not enough are free), `turn` (what is free is for jobs before it), `preempting` (its devices
    are being cleared), `user_quota`, `team_quota`, `device_hours` (new ones come `at`), `retry` (not before `at`)
    or `impossible`.
    """

    code: str
    needs: int
    free: int = 0
    at: float | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and why the others wait."""

    placements: tuple[Placement, ...]
    preemptions: tuple[Preemption, ...]
    reservation: Reservation | None
    order: tuple[str, ...]
    """Every queued job in the order in which they are served."""
    waits: dict[str, Wait]
    """For each queued job that does not start."""
