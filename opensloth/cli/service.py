"""The whole service on one machine: checks, migrations, the first key, the parts, and an orderly end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from opensloth.accounts.loopback import require_loopback
from opensloth.cli import parts
from opensloth.cli.announce import Announcer
from opensloth.cli.first_key import BootstrapFailed, check_stored, make_key, store_key
from opensloth.cli.home_lock import HomeInUse, HomeLock, Record
from opensloth.cli.processes import stop_leftover
from opensloth.cli.supervise import PartFailed, Supervisor
from opensloth.errors import InvalidInput

LEFTOVER_GRACE_S = 10.0
_LEAST_BYTES = 1 << 16
"""Without room for that the parts end as they print their first lines into their logs."""
AGAIN_S = 2.0
"""Between two tries while the database is away."""


class CannotStart(Exception):
    """Why the service does not start, in one sentence; `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Options:
    """What `opensloth up` was asked for; None means the setting's own default."""

    home: Path
    host: str
    port: int
    database_url: str | None
    redis_url: str | None
    storage_url: str | None
    devices: str | None
    stop_grace_s: float
    new_key: bool


class StopRequests:
    """Counts Ctrl-C, SIGTERM and SIGHUP instead of dying of them."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._count)

    def _count(self, number: int, frame: object) -> None:
        self.count += 1


def run(options: Options) -> None:
    """Runs the service until it is asked to stop; raises CannotStart."""
    announce = Announcer()
    _check_loopback(options.host)
    _prepare_home(options.home)
    lock = _lock(options.home)
    stops = StopRequests()
    record = Record(options.home)
    for name, identity in record.leftovers().items():
        announce.line(f"  Stopping the {name} that an earlier `opensloth up` left (process {identity.pid}).")
        stop_leftover(identity, options.stop_grace_s if name == "worker" else LEFTOVER_GRACE_S)
    _check_port(options.host, options.port)

    announce.line(f"OpenSloth in {options.home}")
    socket_path = None if options.redis_url else _prepare_socket(options.home)
    env = environment(options, socket_path)
    supervisor = Supervisor(env, options.home, record, announce.part, lambda: stops.count)
    try:
        _start(options, env, socket_path, supervisor, announce, stops)
        announce.line("\nStopping: running jobs save a checkpoint first (Ctrl-C again stops at once).")
    except PartFailed as failed:
        tail = "".join(f"\n    {line}" for line in failed.tail)
        raise CannotStart(f"{failed.name} did not start ({failed.how}).{tail}", f"Its log: {failed.log}") from None
    finally:
        supervisor.stop()
        lock.release()


def _start(
    options: Options,
    env: dict[str, str],
    socket_path: Path | None,
    supervisor: Supervisor,
    announce: Announcer,
    stops: StopRequests,
) -> None:
    """Starts everything in order and keeps it running until asked to stop."""
    url = parts.local_url(options.host, options.port)
    credentials = options.home / "credentials.json"
    if not _bring_up_to_date(env, options.home, announce, stops):
        return
    first_key = _ensure_key(options, env, credentials, url, announce)
    if socket_path is not None and not supervisor.start([parts.valkey_part(options.home, socket_path)]):
        return
    if not supervisor.start([parts.api_part(options.host, options.port), parts.worker_part(options.stop_grace_s)]):
        return
    remark = None if first_key else check_stored(credentials, url)
    announce.welcome(url, credentials, first_key=first_key, remark=remark)
    supervisor.run()


def environment(options: Options, socket_path: Path | None) -> dict[str, str]:
    """What the parts get: our environment less the client's own key, with every setting that was chosen."""
    env = {name: value for name, value in os.environ.items() if name not in {"OPENSLOTH_API_KEY", "OPENSLOTH_BASE_URL"}}
    env["PYTHONUNBUFFERED"] = "1"
    redis_url = options.redis_url
    if socket_path is not None and socket_path.parent != options.home / "valkey":
        redis_url = f"unix://{socket_path}"
    chosen = {
        "HOME": str(options.home),
        "HOST": options.host,
        "PORT": str(options.port),
        "DATABASE_URL": options.database_url,
        "REDIS_URL": redis_url,
        "STORAGE_URL": options.storage_url,
        "DEVICES": options.devices,
    }
    return env | {f"OPENSLOTH_{name}": value for name, value in chosen.items() if value is not None}


def _prepare_home(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "logs").mkdir(exist_ok=True)
        probe = home / f".write-test-{os.getpid()}"
        try:
            probe.write_bytes(bytes(_LEAST_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as problem:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Make room on its disk." if full else "Choose another with --home or OPENSLOTH_HOME."
        raise CannotStart(f"{home} cannot be written: {problem.strerror}.", hint) from None


def _lock(home: Path) -> HomeLock:
    try:
        return HomeLock(home)
    except HomeInUse as other:
        raise CannotStart(
            f"another `opensloth up` runs on {home} (process {other.pid or 'unknown'}).",
            "Use that one, stop it with Ctrl-C, or give this one its own --home and --port.",
        ) from None


def _check_loopback(host: str) -> None:
    try:
        require_loopback(os.environ.get("OPENSLOTH_AUTH", "on"), host)
    except InvalidInput as problem:
        raise CannotStart(f"{problem.message}.", problem.hint) from None


def _check_port(host: str, port: int) -> None:
    try:
        free = parts.port_is_free(host, port)
    except OSError as problem:
        raise CannotStart(f"{host}:{port} cannot be listened on: {problem.strerror}.") from None
    if not free:
        hint = f"Choose another: opensloth up --port {port + 1}"
        raise CannotStart(f"port {port} on {host} is taken by another program.", hint)


def _prepare_socket(home: Path) -> Path:
    try:
        return parts.prepare_socket(home)
    except OSError as problem:
        raise CannotStart(f"there is no place for Valkey's socket: {problem}.") from None


def _bring_up_to_date(env: dict[str, str], home: Path, announce: Announcer, stops: StopRequests) -> bool:
    """Migrates, however long the database is away; False if asked to stop before."""
    told = ""
    while not stops.count:
        seconds = _migrate(env, home)
        if seconds is not None:
            announce.part("ready", "database", f"up to date  ({seconds:.1f} s)")
            return True
        if (said := _last_words(home)) != told:
            told = said
            announce.part("problem", "database", f"{told}; it is tried again until it answers (Ctrl-C stops)")
        time.sleep(AGAIN_S)
    return False


def _migrate(env: dict[str, str], home: Path) -> float | None:
    """Brings the database up to date; returns the seconds it took, None while the database is away."""
    began = time.monotonic()
    with _migrations_log(home).open("w", encoding="utf-8") as output:
        command = [*parts.MIGRATE]
        done = subprocess.run(
            command,
            env=env,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if done.returncode == os.EX_TEMPFAIL:
        return None
    if done.returncode != 0:
        log = _migrations_log(home)
        tail = "".join(f"\n    {line}" for line in log.read_text(encoding="utf-8").splitlines()[-15:])
        raise CannotStart(f"the database could not be brought up to date.{tail}", f"The whole log: {log}")
    return time.monotonic() - began


def _migrations_log(home: Path) -> Path:
    return home / "logs" / "migrations.log"


def _last_words(home: Path) -> str:
    """What the last migration said at its end, on one line."""
    text = _migrations_log(home).read_text(encoding="utf-8")
    return " ".join(text[text.rfind("migrations: ") :].removeprefix("migrations: ").split())


def _ensure_key(options: Options, env: dict[str, str], credentials: Path, url: str, announce: Announcer) -> bool:
    """Whether an admin key was made and stored now."""
    try:
        key = make_key(env, options.home, further=options.new_key)
    except BootstrapFailed as problem:
        raise CannotStart(f"no admin key could be made: {problem}") from None
    if key is None:
        return False
    previous = store_key(credentials, url, key)
    if previous is not None:
        announce.line(f"  The credentials that were there before are in {previous}.")
    return True
