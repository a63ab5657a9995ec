"""What processes on this host hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from worker import host_memory
from worker.host_memory import ProcessTable, memory_left, resident_bytes

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; kept = b'x' * (50 << 20); print('up', flush=True); "
                          "time.sleep(600)"], stdout=subprocess.PIPE, text=True, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_a_tree_holds_what_its_children_hold_whatever_their_session():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, process_group=0)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        (tree,) = ProcessTable().trees([parent.pid])
        assert tree == {parent.pid, child}
        assert resident_bytes(tree) > resident_bytes([parent.pid]) + (50 << 20)
    finally:
        psutil.Process(child).kill()
        parent.kill()
        parent.wait()


def test_a_process_that_is_gone_holds_nothing():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert ProcessTable().trees([gone.pid, os.getpid()])[0] == set()
    assert resident_bytes([gone.pid]) == 0


def test_a_cgroups_limit_counts_where_it_is_tighter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    of_the_host, _ = memory_left()
    assert of_the_host > 0
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert memory_left() == (150_000, 20_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_left()[0] > 150_000
