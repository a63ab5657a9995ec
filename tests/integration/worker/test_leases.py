"""People's own commands run under their accounts, end with all that they started, and leave nothing of the server."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import update

from opensloth.accounts.rows import UserRow
from opensloth.accounts.users import add_user
from opensloth.devices.rows import HostRow
from opensloth.errors import Conflict
from opensloth.jobs.views import JobView
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, wait_for, wait_for_state
from tests.support.workers import Worker, running_worker

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ACCOUNT = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def open_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"leases": True, "stop_grace_s": 1.0})


@pytest.fixture
def worker(open_settings: Settings, services: Services, tmp_path: Path) -> Iterator[Worker]:
    map_account(services, ACCOUNT)
    with running_worker(open_settings, tmp_path) as worker:
        wait_for_leases(services)
        yield worker


def wait_for_leases(services: Services) -> None:
    def ready() -> bool:
        with services.database.read() as session:
            host = session.get(HostRow, "box")
        return host is not None and bool(host.facts.get("leases"))

    wait_for(ready, 120)


def map_account(services: Services, account: str | None) -> None:
    with services.database.write() as session:
        if session.get(UserRow, "admin") is None:
            add_user(session, ADMIN, "admin", "admin", "default", {}, field="name")
        session.execute(update(UserRow).where(UserRow.name == "admin").values(account=account))


def lease(services: Services, *command: str, **more: Any) -> str:
    body = {"command": list(command), "time_limit": "1h", "directory": "/tmp", **more}
    return services.leases.submit(body, ADMIN)[0].id


def shell(services: Services, text: str, **more: Any) -> str:
    return lease(services, "/bin/sh", "-c", text, **more)


def log_of(services: Services, job_id: str) -> str:
    with services.storage.open(f"jobs/{job_id}/logs/attempt-1.log") as file:
        return file.read().decode()


def outcome(services: Services, job_id: str) -> JobView:
    return wait_for_state(services, job_id, "succeeded", "failed", "cancelled", timeout=120)


def marked(marker: str) -> list[psutil.Process]:
    """The live processes whose command line has the marker."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and marker in (process.info["cmdline"] or []):
            found.append(process)
    return found


def test_a_command_runs_as_its_owner_and_its_exit_code_comes_back(services: Services, worker: Worker) -> None:
    first = shell(services, "id -un; pwd; env; echo to-stderr >&2", environment={"MINE": "a b"})
    failing = shell(services, "echo oh no; exit 7")
    crashing = shell(services, "kill -SEGV $$")
    wrong = [
        (lease(services, "no-such-program-here"), "no program"),
        (lease(services, "/etc/hostname"), "cannot be run"),
        (lease(services, "/bin/true", directory="/no/such/folder"), "no folder"),
    ]
    job = outcome(services, first)
    assert (job.state, job.kind) == ("succeeded", "command"), job.error
    assert job.result is not None
    assert (job.result.exit_code, job.result.model, job.result.artifacts) == (0, None, [])
    _is_clean(log_of(services, first).splitlines(), first)
    failed = outcome(services, failing)
    assert (failed.state, failed.reason, failed.attempt) == ("failed", "command_failed", 1)
    assert failed.result is not None
    assert failed.result.exit_code == 7
    assert failed.error is not None
    assert "oh no" in (failed.error.log_tail or "")
    crashed = outcome(services, crashing)
    assert crashed.result is not None
    assert crashed.result.exit_code == 128 + signal.SIGSEGV
    for job_id, said in wrong:
        job = outcome(services, job_id)
        assert (job.state, job.reason) == ("failed", "command_failed")
        assert job.error is not None
        assert said in job.error.message
    for job_id, said in wrong[:2]:
        assert said in log_of(services, job_id), "whoever leased it sees the log alone"


def _is_clean(lines: list[str], job_id: str) -> None:
    user, folder, *rest = lines
    assert (user, folder) == (ACCOUNT, "/tmp")
    assert "to-stderr" in rest
    environment = dict(line.partition("=")[::2] for line in rest if "=" in line)
    assert environment["HOME"] == pwd.getpwnam(ACCOUNT).pw_dir
    assert (environment["MINE"], environment["CUDA_VISIBLE_DEVICES"]) == ("a b", "")
    assert [name for name in environment if "DATABASE" in name or "REDIS" in name or "SECRET" in name] == []
    assert {name for name in environment if name.startswith("OPENSLOTH_")} == {"OPENSLOTH_JOB_ID"}
    assert environment["OPENSLOTH_JOB_ID"] == job_id


def test_a_placed_command_whose_account_is_wrong_does_not_run(services: Services, worker: Worker) -> None:
    for account in ("no-such-account", "root"):
        map_account(services, account)
        job = outcome(services, shell(services, "echo never"))
        assert (job.state, job.reason, job.attempt) == ("failed", "no_account", 1)


DAEMON = "(setsid sh -c 'exec >/dev/null 2>&1; while :; do sleep 0.1; done' {marker} &); echo on; {after}"
"""A daemon in a session of its own, whose parent is gone."""
DEAF_AND_FORKING = "trap '' TERM; while :; do setsid sleep 0.5 & sleep 0.02; done"


def test_whatever_a_command_started_ends_with_it(services: Services, worker: Worker, tmp_path: Path) -> None:
    marker = f"by-itself-{tmp_path.name}"
    job = outcome(services, shell(services, DAEMON.format(marker=marker, after="exit 0")))
    assert job.state == "succeeded", job.error
    assert marked(marker) == []
    for save in (True, False):
        marker = f"cancelled-{save}-{tmp_path.name}"
        job_id = lease(services, "/bin/sh", "-c", DAEMON.format(marker=marker, after="sleep 1000; :"), marker)
        wait_for_state(services, job_id, "running", timeout=90)
        wait_for(lambda marker=marker: len(marked(marker)) >= 2, 90)
        services.control.cancel(job_id, ADMIN, save=save)
        assert outcome(services, job_id).state == "cancelled"
        assert marked(marker) == []
    marker = f"guard-{tmp_path.name}"
    job_id = lease(services, "/bin/sh", "-c", DAEMON.format(marker=marker, after="sleep 1000; :"), marker)
    wait_for(lambda: len(marked(marker)) >= 2, 90)
    guard = next(process.parent() for process in marked(marker) if process.parent())
    assert guard is not None
    assert "worker.command_main" in guard.cmdline()
    guard.kill()
    assert outcome(services, job_id).reason == "trainer_killed"
    assert marked(marker) == []
    marker = f"deaf-{tmp_path.name}"
    job_id = lease(services, "/bin/sh", "-c", DEAF_AND_FORKING, marker)
    wait_for_state(services, job_id, "running", timeout=90)
    services.control.cancel(job_id, ADMIN)
    assert outcome(services, job_id).state == "cancelled"
    assert marked(marker) == []


@pytest.mark.slow
def test_a_killed_worker_takes_a_command_and_its_daemons_along(
    services: Services, worker: Worker, tmp_path: Path
) -> None:
    marker = f"orphan-{tmp_path.name}"
    job_id = lease(services, "/bin/sh", "-c", DAEMON.format(marker=marker, after="sleep 1000; :"), marker)
    wait_for_state(services, job_id, "running", timeout=90)
    wait_for(lambda: len(marked(marker)) >= 2, 90)
    worker.kill(signal.SIGKILL)
    wait_for(lambda: not marked(marker), 90)
    worker.start()
    job = outcome(services, job_id)
    assert (job.state, job.reason, job.attempt) == ("failed", "host_lost", 1)


def test_limits_and_a_drain_end_a_command_and_nothing_pauses_it(services: Services, worker: Worker) -> None:
    idle = shell(services, "echo once; sleep 1000", idle_limit=1)
    late = shell(services, "while true; do echo busy; sleep 0.1; done", time_limit=2, idle_limit=60)
    for job_id, reason in ((idle, "idle"), (late, "time_limit")):
        job = outcome(services, job_id)
        assert (job.state, job.reason) == ("failed", reason)
    job_id = shell(services, "sleep 1000")
    wait_for_state(services, job_id, "running", timeout=90)
    with pytest.raises(Conflict, match="saves nothing"):
        services.control.pause(job_id, ADMIN)
    worker.stop()
    job = services.jobs.get(job_id, ADMIN)
    assert (job.state, job.reason) == ("failed", "drained")
