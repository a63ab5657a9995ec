"""From a placed command to its run folder: whose account it is, and what it gets to see."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from typing import Any

from opensloth.accounts.rows import UserRow
from opensloth.devices.inventory import FoundDevice
from opensloth.jobs.attempts import Placed
from opensloth.jobs.command_spec import CommandSpec, load_command_spec
from opensloth.services import Services
from worker.command_process import JOB_VARIABLE
from worker.command_run import CommandRun
from worker.launch import CannotStart, device_environment, fresh_folder

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")
"""Of the worker's own environment; none of these can hold a secret."""


def prepare_command(
    services: Services, placed: Placed, devices: Sequence[FoundDevice]
) -> tuple[CommandRun, dict[str, Any]]:
    """Make the run folder and its `run.json`; also returns what the job shows as resolved.

    Raises CannotStart where this host runs no commands, or not under the owner's account.
    """
    job = placed.job
    spec = load_command_spec(job.spec)
    if not services.settings.leases:
        raise CannotStart("this host runs no commands of people (OPENSLOTH_LEASES is off)", code="leases_off")
    with services.database.read() as session:
        user = session.get(UserRow, job.owner)
    account = _account(user.account if user else None, job.owner)
    directory = spec.directory or account.pw_dir
    if not os.path.isdir(directory):
        raise CannotStart(
            f"there is no folder {directory} on this host", code="command_failed", hint="say which with `directory`"
        )
    run_dir = fresh_folder(services, placed)
    is_own = account.pw_uid == os.geteuid()
    run = CommandRun(
        job_id=job.id,
        command=spec.command,
        directory=directory,
        environment=_environment(spec, account, devices, job.id),
        uid=None if is_own else account.pw_uid,
        gid=None if is_own else account.pw_gid,
        groups=[] if is_own else os.getgrouplist(account.pw_name, account.pw_gid),
        idle_limit_s=spec.idle_limit,
        devices=[device.id for device in devices if device.kind == "cuda"],
    )
    (run_dir / "run.json").write_text(run.model_dump_json(indent=1))
    return run, {"account": account.pw_name, "directory": directory}


def _account(name: str | None, owner: str) -> pwd.struct_passwd:
    """The account to run as: never root's, and another than the worker's own only if the worker is root."""
    if name is None:
        raise CannotStart(f"{owner} has no account on the workers' hosts", code="no_account")
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise CannotStart(f"this host has no account {name!r}, which is {owner}'s", code="no_account") from None
    if account.pw_uid == 0:
        raise CannotStart("a command never runs as root", code="no_account")
    if os.geteuid() not in (0, account.pw_uid):
        own = pwd.getpwuid(os.geteuid()).pw_name
        raise CannotStart(
            f"the worker runs as {own} and cannot become {name}",
            code="no_account",
            hint=f"start the worker as root, or map {owner} to {own}",
        )
    return account


def _environment(
    spec: CommandSpec, account: pwd.struct_passwd, devices: Sequence[FoundDevice], job_id: str
) -> dict[str, str]:
    """A clean one: nothing of the worker's but language and libraries, then the owner's, and the devices last."""
    passed: Mapping[str, str] = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed,
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "PATH": PATH,
        "PYTHONUNBUFFERED": "1",
        **spec.environment,
        JOB_VARIABLE: job_id,
        "CUDA_VISIBLE_DEVICES": device_environment(devices, 1, 1)["CUDA_VISIBLE_DEVICES"],
    }
