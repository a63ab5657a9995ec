"""`opensloth up`: starts everything, restarts what dies, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys

import psutil
import pytest

from opensloth.client import Client
from tests.support.faults import fill, small_disk
from tests.support.servers import fresh_postgres_database
from tests.support.up_process import ROOT, Up, free_port, is_gone, wait_until
from tests.support.wire import wire_to


@pytest.fixture
def start(tmp_path):
    """Starts `up`; everything that was started is gone after the test."""
    started = []

    def begin(*options, home=None, port=None, env=None):
        up = Up(home or tmp_path / "a home", port or free_port(), *options, env=env)
        started.append(up)
        return up

    yield begin
    for up in started:
        up.kill_all()


def ready(up):
    up.wait_for("Ctrl-C stops everything.")
    return up


def client_of(up):
    stored = json.loads((up.home / "credentials.json").read_text())
    return Client(stored["base_url"], stored["api_key"])


def test_it_starts_restarts_a_dead_part_and_stops_all_on_ctrl_c(start):
    up = ready(start())
    for name in ("database", "valkey", "api", "worker"):
        assert f"{name} " in up.text
    credentials = up.home / "credentials.json"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    key = json.loads(credentials.read_text())["api_key"]
    assert key not in up.text
    assert not [path for path in (up.home / "logs").iterdir() if key in path.read_text()]
    with client_of(up) as client:
        assert list(client.jobs.list()) == []

    parts = up.parts()
    assert set(parts) == {"valkey", "api", "worker"}
    assert all(psutil.Process(part.pid).is_running() for part in parts.values())
    assert not [c for c in parts["valkey"].net_connections() if c.family == socket.AF_INET]

    second = start(home=up.home)
    assert second.wait_ended() == 1
    assert f"another `opensloth up` runs on {up.home} (process {up.process.pid})" in second.text

    parts["api"].kill()
    up.wait_for("ended (killed by SIGKILL); restarting")
    up.wait_for("again  (")
    with client_of(up) as client:
        assert list(client.jobs.list()) == []

    running = up.parts()
    up.interrupt()
    assert up.wait_ended() == 0
    assert all(is_gone(part) for part in running.values())
    assert up.text.index("worker   stopped") < up.text.index("api      stopped") < up.text.index("valkey   stopped")
    assert not (up.home / "up.json").exists()
    assert "Traceback" not in up.text


@pytest.mark.slow
def test_after_kill_minus_nine_nothing_stays_and_the_next_start_works_with_the_same_key(start):
    up = ready(start())
    key = json.loads((up.home / "credentials.json").read_text())["api_key"]
    parts = up.parts()
    up.process.kill()
    if sys.platform.startswith("linux"):
        wait_until(lambda: all(is_gone(part) for part in parts.values()), 120)

    again = ready(start(home=up.home))
    assert json.loads((up.home / "credentials.json").read_text()) == {
        "base_url": f"http://127.0.0.1:{again.port}",
        "api_key": key,
    }
    assert "The address in" in again.text
    assert all(is_gone(part) for part in parts.values())
    with client_of(again) as client:
        assert list(client.jobs.list()) == []
    again.process.send_signal(signal.SIGTERM)
    assert again.wait_ended() == 0


@pytest.mark.slow
def test_lost_credentials_are_told_and_made_anew_on_request(start):
    up = ready(start())
    up.interrupt()
    up.wait_ended()
    (up.home / "credentials.json").unlink()
    without = ready(start(home=up.home))
    assert "opensloth up --new-key" in without.text
    assert not (up.home / "credentials.json").exists()
    without.interrupt()
    without.wait_ended()
    ready(start("--new-key", home=up.home))
    with client_of(up) as client:
        assert list(client.jobs.list()) == []


def test_a_taken_port_is_named_before_anything_is_started(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        up = start(port=taken.getsockname()[1])
        assert up.wait_ended() == 1
    assert f"port {up.port} on 127.0.0.1 is taken" in up.text
    assert f"--port {up.port + 1}" in up.text
    assert len(up.text.strip().splitlines()) == 2


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = _up("--home", str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


def test_a_home_whose_disk_is_full_is_named(tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        fill(disk)
        done = _up("--home", str(disk / "home"))
        assert done.returncode == 1
        assert f"{disk / 'home'} cannot be written: No space left on device." in done.stderr
        assert "Make room" in done.stderr


def test_missing_packages_are_named_with_the_command_that_adds_them():
    code = (
        "import sys, importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name in ('celery', 'fastapi') else real(name, *a);"
        "sys.argv = ['opensloth', 'up']; from opensloth.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 1
    assert "fastapi, celery" in done.stderr
    assert "pip install 'opensloth[api,worker,train]'" in done.stderr


def test_a_broken_database_ends_it_with_the_reason(tmp_path):
    done = _up("--home", str(tmp_path / "home"), "--port", str(free_port()), "--database-url", "nonsense://x")
    assert done.returncode == 1
    assert "the database could not be brought up to date" in done.stderr


def test_it_waits_for_a_database_that_is_away_until_it_is_stopped(start):
    up = start("--database-url", f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    up.wait_for("it is tried again until it answers (Ctrl-C stops)")
    assert "Connection refused" in up.text
    up.interrupt()
    assert up.wait_ended() == 0


@pytest.mark.slow
def test_it_goes_on_once_its_database_is_there(start, postgres_server):
    with fresh_postgres_database(postgres_server) as url, wire_to(url) as wire:
        wire.cut()
        up = start("--database-url", wire.url)
        up.wait_for("it is tried again until it answers")
        wire.restore()
        ready(up)
        up.interrupt()
        assert up.wait_ended() == 0


def _up(*options):
    command = [sys.executable, "-m", "opensloth.cli", "up", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
