"""What `opensloth up` is made of: parts that are restarted and stopped, a lock, a record, the problems in a log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from opensloth.cli.home_lock import HomeInUse, HomeLock, Record
from opensloth.cli.log_tail import LogTail
from opensloth.cli.parts import local_url, port_is_free, prepare_socket
from opensloth.cli.processes import Identity, Part, stop_leftover
from opensloth.cli.supervise import LONGEST_RESTART_S, STEADY_S, Kept, PartFailed, Supervisor
from tests.support.up_process import wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PLAIN = "import time; print('up', flush=True); time.sleep(60)"


def part(name, code, **more):
    return Part(name, (sys.executable, "-c", code), lambda p: "up" in p.log_since_start(), about="works", **more)


class Driver:
    """A supervisor in this process, and what it said."""

    def __init__(self, home):
        (home / "logs").mkdir(parents=True)
        self.said, self.asked, self.home = [], 0, home
        self.record = Record(home)
        self.supervisor = Supervisor(dict(os.environ), home, self.record, self._say, lambda: self.asked)

    def _say(self, kind, name, text):
        self.said.append((kind, name, text))

    def pid(self, name):
        return json.loads((self.home / "up.json").read_text())["parts"][name]["pid"]


@pytest.fixture
def driver(tmp_path):
    made = Driver(tmp_path / "home")
    yield made
    made.asked = 2
    made.supervisor.stop()


def test_a_part_that_does_not_end_in_its_grace_is_killed_with_its_group(driver):
    assert driver.supervisor.start([part("stubborn", STUBBORN, grace_s=0.3)])
    process = Identity.of(driver.pid("stubborn"))
    driver.asked = 1
    driver.supervisor.stop()
    assert not process.is_running()
    assert ("problem", "stubborn", "did not end within 0 s and was killed") in driver.said


def test_asking_a_second_time_does_not_wait_for_the_grace(driver):
    assert driver.supervisor.start([part("stubborn", STUBBORN, grace_s=60)])
    driver.asked = 2
    began = time.monotonic()
    driver.supervisor.stop()
    assert time.monotonic() - began < 5
    assert ("problem", "stubborn", "killed") in driver.said


def kill_and_supervise(driver):
    """Kill the part `plain` while it is supervised, until it is ready again."""
    first = driver.pid("plain")

    def kill_and_then_stop():
        os.kill(first, 9)
        wait_until(lambda: driver.said[-1][:2] == ("ready", "plain") and len(driver.said) == 3, 20)
        driver.asked = 1

    helper = threading.Thread(target=kill_and_then_stop)
    helper.start()
    driver.supervisor.run()
    helper.join()


def test_a_part_that_dies_is_started_again(driver):
    assert driver.supervisor.start([part("plain", PLAIN)])
    first = driver.pid("plain")
    kill_and_supervise(driver)
    assert driver.pid("plain") != first
    assert driver.said[1][2].startswith("ended (killed by SIGKILL); restarting in 0.5 s")


def test_with_no_room_for_the_record_a_part_is_started_again_all_the_same(driver, monkeypatch):
    assert driver.supervisor.start([part("plain", PLAIN)])

    def full(parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(driver.record, "write", full)
    kill_and_supervise(driver)
    assert driver.said[2][:2] == ("ready", "plain")


def test_a_part_that_ends_before_it_is_ready_gives_the_end_of_its_log(driver):
    with pytest.raises(PartFailed) as caught:
        driver.supervisor.start([part("broken", "print('one'); print('no such table'); raise SystemExit(3)")])
    assert caught.value.how == "exit code 3"
    assert caught.value.tail[-1] == "no such table"


def test_nobody_has_to_read_what_it_says():
    code = (
        "import sys; from opensloth.cli.announce import Announcer; announce = Announcer(); announce.line('first');"
        "sys.stdin.read(); announce.part('problem', 'api', 'ended'); announce.line('more'); sys.exit(7)"
    )
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)
    assert child.stdout.readline() == b"first\n"
    child.stdout.close()
    child.stdin.close()
    assert child.wait(60) == 7, child.stderr.read()
    child.stderr.close()


def test_restarts_wait_longer_each_time_but_not_after_a_steady_run(tmp_path):
    kept = Kept(part("x", PLAIN), tmp_path / "x.log")
    delays = [kept.restart_delay(1.0) for _ in range(9)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == LONGEST_RESTART_S
    assert kept.restart_delay(STEADY_S) == 0.5


def test_a_home_is_locked_until_it_is_released(tmp_path):
    lock = HomeLock(tmp_path)
    with pytest.raises(HomeInUse, match=str(os.getpid())):
        HomeLock(tmp_path)
    lock.release()
    HomeLock(tmp_path).release()


def test_only_the_very_processes_that_were_noted_are_leftovers(tmp_path):
    record = Record(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    identity = Identity.of(child.pid)
    try:
        record.write({"api": identity, "worker": Identity(child.pid, identity.created - 100)})
        assert record.leftovers() == {"api": identity}
        stop_leftover(identity, grace_s=5)
        assert child.wait(5) == -15
        assert record.leftovers() == {}
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("text", ["", "{broken", "[]", '{"parts": {"api": 3}}'])
def test_a_record_that_cannot_be_read_has_no_leftovers(tmp_path, text):
    (tmp_path / "up.json").write_text(text)
    assert Record(tmp_path).leftovers() == {}


def test_only_new_problems_of_a_log_are_shown(tmp_path):
    log = tmp_path / "api.log"
    log.write_text("ERROR: an old one\n")
    tail = LogTail(log)
    with log.open("a") as file:
        file.write("INFO: fine\nERROR: new\nERROR: new\nTraceback:\n  File x\nValueError: bad\nERROR: ha")
    assert list(tail.problems()) == ["ERROR: new", "ValueError: bad"]
    with log.open("a") as file:
        file.write("lf\n1:M # WARNING Memory overcommit must be enabled! set vm.overcommit_memory\n")
    assert list(tail.problems()) == ["ERROR: half"]
    log.write_text("ERROR: after rotation\n")
    assert list(tail.problems()) == ["ERROR: after rotation"]


def test_many_problems_are_summed_up(tmp_path):
    log = tmp_path / "api.log"
    tail = LogTail(log)
    log.write_text("".join(f"ERROR: number {i}\n" for i in range(30)))
    assert list(tail.problems())[-1] == f"... and 20 more problems in {log}"


def test_a_long_home_gets_a_short_socket_and_nobody_else_can_enter_it(tmp_path):
    home = tmp_path / ("x" * 120)
    home.mkdir()
    path = prepare_socket(home)
    assert len(os.fsencode(path)) < 100
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rmdir()
    assert prepare_socket(tmp_path) == tmp_path / "valkey" / "valkey.sock"


def test_a_stale_socket_is_taken_away(tmp_path):
    path = prepare_socket(tmp_path)
    path.touch()
    assert not prepare_socket(tmp_path).exists()


def test_addresses_are_written_as_this_machine_reaches_them():
    assert local_url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert local_url("::", 1) == "http://[::1]:1"
    assert local_url("box", 1) == "http://box:1"
    with pytest.raises(OSError, match="assign"):
        port_is_free("203.0.113.1", 8400)
