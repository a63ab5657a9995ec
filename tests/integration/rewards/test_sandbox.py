"""Hostile code in the sandbox: it gets nothing, reaches nothing and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from opensloth.rewards import RewardFailed, RewardPolicy, RewardRunner, build_rewards, code_tests, sandbox
from opensloth.rewards.sandbox import Limits, Outcome, run_tests

QUICK = Limits(timeout_s=3.0)


def outcome(code: str, *tests: str, limits: Limits = QUICK) -> Outcome:
    return run_tests(code, list(tests), limits)


def test_code_is_judged_by_its_tests():
    assert outcome("def f(x): return x + 1", "assert f(1) == 2", "assert f(1) == 3", "f(2)") == Outcome(
        "done", (True, False, True)
    )


def test_ordinary_libraries_work():
    tests = (
        "import collections, dataclasses, datetime, decimal, functools, heapq, itertools, math, random, re, "
        "statistics, string, typing, zlib, hashlib, sqlite3, json, csv, io, bisect, fractions, asyncio",
        "asyncio.run(asyncio.sleep(0))",
        "import threading; t = threading.Thread(target=list); t.start(); t.join()",
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(2) as p: list(p.map(str, [1, 2]))",
        "open('notes.txt', 'w').write('x')",
        "import solution; assert solution.f() == 1",
        "import pickle; pickle.loads(pickle.dumps(C(1)))",
    )
    code = "import dataclasses\ndef f(): return 1\n@dataclasses.dataclass\nclass C:\n    x: int"
    assert outcome(code, *tests).passed == (True,) * len(tests)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os; os._exit(0)", "died"),
        ("import sys; sys.exit(0)", "code_error"),
        ("raise KeyboardInterrupt", "code_error"),
        ("def f(:", "code_error"),
        ("\x00", "code_error"),
        ("\ud800", "code_error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "died"),
        ("import ctypes; ctypes.string_at(0)", "died"),
        ("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", None),
        ("import time; time.sleep(100)", "timeout"),
        ("while True: pass", "timeout"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "timeout"),
        (
            "import os\nfor fd in range(64):\n    try: os.write(fd, b'done\\n' * 1000)\n    except OSError: pass",
            None,
        ),
    ],
)
def test_code_that_does_not_come_to_its_tests_passes_none(code, status):
    result = outcome(code, "pass", limits=Limits(timeout_s=1.0))
    assert result.passed == (False,)
    assert status in (None, result.status)


def test_leaving_in_a_test_passes_no_later_one():
    result = outcome("import os\ndef f(): os._exit(0)", "pass", "f()", "pass")
    assert result == Outcome("died", (True, False, False))


def test_a_fork_bomb_is_bounded_and_nothing_of_it_is_left(tmp_path, monkeypatch):
    code = """
import os, time
started = 0
for _ in range(10_000):
    try:
        if os.fork() == 0:
            os.setsid()
            while True:
                try:
                    os.fork()
                except OSError:
                    time.sleep(0.01)
        started += 1
    except OSError:
        break
"""
    mount_point = tmp_path / "root"
    mount_point.mkdir()
    monkeypatch.setattr(sandbox, "_mount_point", lambda: str(mount_point))
    before = time.monotonic()
    assert outcome(code, "assert 0 < started < 8").passed == (True,)
    assert time.monotonic() - before < 20
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(mount_point) in command_line(pid)]


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize(
    "code",
    [
        "held = bytearray(10**9)",
        "held = []\nwhile True: held.append('x' * 10**6)",
        "held = 9 ** 9 ** 9",
        "import mmap; held = mmap.mmap(-1, 10**9)",
        "import os\nfd = os.memfd_create('x')",
    ],
)
def test_a_memory_bomb_ends_in_the_sandbox(code):
    assert outcome(code, "pass", limits=Limits(timeout_s=2.0, memory_bytes=128 * 2**20)).passed == (False,)


def test_files_are_bounded_in_size_and_number():
    one = "f = open('big', 'wb')\nfor _ in range(100): f.write(b'x' * 2**20); f.flush()"
    assert outcome(one, "pass").passed == (False,)
    many = "for n in range(100): open(str(n), 'wb').write(b'x' * 2**20)"
    assert outcome(many, "pass").passed == (False,)
    empty = "import os\nfor n in range(100_000): os.close(os.open(str(n), os.O_CREAT))"
    assert outcome(empty, "pass").passed == (False,)


def test_the_network_is_not_there():
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    port = server.getsockname()[1]
    tests = [
        f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
        "import socket; socket.create_connection(('1.1.1.1', 53), 1)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.getaddrinfo('localhost', 80)",
        f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}')",
    ]
    assert outcome("", *tests).passed == (False,) * len(tests)
    with pytest.raises(TimeoutError):
        server.accept()
    server.close()


def test_nothing_of_the_host_can_be_read_or_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "very-secret")
    secret = tmp_path / "secret"
    secret.write_text("very-secret")
    secret.chmod(0o666)
    tests = [
        f"open({str(secret)!r}).read()",
        "open('/etc/passwd').read()",
        "open('/proc/1/environ').read()",
        "open('/proc/self/status').read()",
        f"import os; assert set(os.listdir({str(Path.home())!r})) - set(os.__file__.split('/'))",
        f"import os; os.stat({str(Path(__file__).resolve())!r})",
        "import opensloth",
        "import os; assert 'secret' in str(os.environ)",
        "import os; open(os.__file__, 'a')",
        "import os; os.unlink(os.__file__)",
        "open('/x', 'w')",
        "import os; os.system('true') == 0 or 1/0",
        "import subprocess; subprocess.run(['/bin/true'], check=True)",
        "import os; os.kill(1, 9); import time; time.sleep(0.1); 1/0",
        "import os; os.setuid(0)",
        "import os; os.chroot('/tmp')",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
        "import ctypes; assert ctypes.CDLL(None).shmget(0, 2**30, 0o1600) >= 0",
        "import os; assert 'tests' in str(os.listdir('.'))",
    ]
    assert outcome("", *tests).passed == (False,) * len(tests)
    assert secret.read_text() == "very-secret"


def test_a_call_imports_packages_from_where_this_process_does_and_changes_none(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"  # below the folder that is the code's own scratch
    folder.mkdir()
    (folder / "half.py").write_text("VALUE = 0.5")
    (folder / "half.py").chmod(0o666)
    (tmp_path / "secret").write_text("very-secret")
    monkeypatch.syspath_prepend(folder)
    code = "import os, half\ndef kept(): return half.VALUE\ndef tried(text): return eval(text)"
    assert sandbox.call(code, "kept", [], QUICK) == 0.5
    for tried in ("open(half.__file__, 'a')", f"open({str(tmp_path / 'secret')!r})"):
        with pytest.raises(sandbox.CallFailed, match=r"Read-only|No such file"):
            sandbox.call(code, "tried", [tried], QUICK)
    assert outcome("import half", "pass").status == "code_error"


def test_the_tests_are_not_in_memory_before_the_code_has_run():
    code = """
import gc, sys
frame, found = sys._getframe(), False
while frame:
    found = found or "magic" + "word" in repr(frame.f_locals) + repr(list(frame.f_globals.values()))
    frame = frame.f_back
found = found or any("magic" + "word" in repr(o) for o in gc.get_objects() if isinstance(o, (bytes, str, list)))
"""
    assert outcome(code, "'magicword'; assert not found").passed == (True,)


def test_sandboxes_run_beside_each_other():
    results: list[Outcome] = []
    threads = [threading.Thread(target=lambda: results.append(outcome("x = 1", "assert x == 1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.passed for result in results] == [(True,)] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
@pytest.mark.parametrize(
    "user",
    [["--reuid", "65534", "--regid", "65534", "--clear-groups"], ["--bounding-set", "-sys_admin"]],
    ids=["ordinary user", "root of a container"],
)
def test_those_who_are_not_root_of_the_host_have_the_same_sandbox(user):
    python = next((p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(p)), None)
    if python is None or not shutil.which("setpriv"):
        pytest.skip("needs a python that every user may run, and setpriv")
    program = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('sandbox', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['sandbox'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(json.dumps(module.run_tests(*json.loads(sys.argv[2]), module.Limits(timeout_s=3.0)).passed))"
    )
    started = """
import os, time
n = 0
try:
    while n < 1000:
        if os.fork() == 0:
            time.sleep(99)
        n += 1
except OSError:
    pass
"""
    tests = [
        "assert 3 < n < 8",
        "import socket; socket.socket()",
        "open('/etc/passwd')",
        "import os; open(os.__file__, 'a')",
        "import ctypes; assert ctypes.CDLL(None).sethostname(b'x', 1) == 0",
    ]
    command = ["setpriv", *user, python, "-c", program]
    arguments = [str(Path(sandbox.__file__)), json.dumps([started, tests])]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.stdout.strip() == "[true, false, false, false, false]", done.stderr


def test_code_tests_scores_blocks_in_parallel_and_by_share():
    with RewardRunner(RewardPolicy()) as runner:
        (whole, share) = build_rewards(
            [
                {"name": "code_tests", "params": {"timeout_s": 2, "setup_column": "setup"}},
                {"name": "code_tests", "params": {"timeout_s": 2, "partial": True}},
            ],
            runner.policy,
        )
        completions = ["```python\ndef f(x):\n    return x\n```", "no code", "```python\nwhile True: pass\n```"]
        rows = [{"tests": ["assert f(1) == 1", "assert f(2) == 4"], "setup": "import math"} for _ in completions]
        assert runner.score(whole, completions, rows) == [0.0, 0.0, 0.0]
        assert runner.score(share, completions, rows) == [0.5, 0.0, 0.0]
        rows = [{"tests": "assert f(math.pi) == math.pi", "setup": "import math"} for _ in completions]
        assert runner.score(whole, completions, rows) == [1.0, 0.0, 0.0]


def test_code_ends_with_the_trainers_helper():
    failures: list[RewardFailed] = []

    def score() -> None:
        with RewardRunner(RewardPolicy()) as runner:
            (bound,) = build_rewards([{"name": "code_tests", "params": {"timeout_s": 30}}], runner.policy)
            try:
                runner.score(bound, ["```python\nimport os\nos.fork()\nwhile True: pass\n```"], [{"tests": "pass"}])
            except RewardFailed as failure:
                failures.append(failure)

    thread = threading.Thread(target=score)
    thread.start()
    below = wait_for_busy_code()
    below[0].kill()
    thread.join(20)
    assert "died (signal 9)" in failures[0].message
    assert psutil.wait_procs(below, timeout=10)[1] == []


def wait_for_busy_code() -> list[psutil.Process]:
    """The helper of this process and all below it, once code in a sandbox has worked for a while."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            for helper in psutil.Process().children():
                below = helper.children(recursive=True)
                if len(below) >= 4 and below[-1].cpu_times().user > 0.3:
                    return [helper, *below]
        time.sleep(0.05)
    raise AssertionError("the code did not start")


def test_a_host_that_cannot_shut_code_off_runs_none(monkeypatch):
    bound = build_rewards(["code_tests"], RewardPolicy())[0]
    monkeypatch.setattr(sandbox, "_mount_point", lambda: "/nonexistent")
    code_tests._sandbox_works.cache_clear()
    with pytest.raises(sandbox.SandboxUnavailable, match=r"mount on /nonexistent.*namespaces"):
        bound.reward.prepare(bound.params)
