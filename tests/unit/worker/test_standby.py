"""Standbys as real processes: what they become, and that whatever goes wrong with one costs the job nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opensloth.training.standby import say
from tests.support.jobs import wait_for
from tests.support.probe_trainer import FAULT
from worker.processes import RUN_VARIABLE, Ranks
from worker.standby import Standby

MODULE = "tests.support.probe_trainer"
SECRETS = {"model": "hf_sesame"}
Start = Callable[..., Standby]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Standby] = []

    def begin(ready: bool = True, **environment: str) -> Standby:
        folder = tmp_path / "standby" / str(len(started))
        standby = Standby.start(MODULE, "transformers", {"CUDA_VISIBLE_DEVICES": "", **environment}, "same", folder)
        started.append(standby)
        if ready:
            wait_for(lambda: standby.look() or standby.ready, 60)
        return standby

    yield begin
    for standby in started:
        standby.process.kill()
        standby.process.wait()


def run(folder: Path, standbys: list[Standby | None], ranks: int = 1, **environment: str) -> Ranks:
    folder.mkdir()
    return Ranks.spawn(MODULE, folder, ranks, {"CUDA_VISIBLE_DEVICES": "", **environment}, SECRETS, standbys)


def found(folder: Path, rank: int = 0) -> dict[str, Any]:
    """What the rank wrote down; it goes on until `ended`."""
    path = folder / f"probe-{rank}.json"
    wait_for(path.exists, 60)
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def ended(folder: Path, ranks: Ranks) -> None:
    (folder / "go").touch()
    wait_for(lambda: not ranks.alive(), 30)
    assert set(ranks.poll()) == {7}, (folder / "trainer.log").read_text()
    ranks.kill()


def test_a_standby_becomes_what_a_new_process_would_be(start: Start, tmp_path: Path) -> None:
    fresh = run(tmp_path / "fresh", [], OMP_OF_THE_JOB="1")
    standby = start(OMP_OF_THE_STANDBY="1")
    warm = run(tmp_path / "warm", [standby], OMP_OF_THE_JOB="1")
    expected, got = found(tmp_path / "fresh"), found(tmp_path / "warm")
    assert got["pid"] == standby.process.pid == warm.processes[0].pid
    assert got["group"] == got["pid"]
    assert expected["group"] == expected["pid"]
    assert got["environment"].pop("OMP_PROBE_ENGINE") == "transformers", "what the imports set stays"
    assert expected["environment"].pop("OMP_PROBE_ENGINE") == "fresh"
    for path, name in ((got, "warm"), (expected, "fresh")):
        assert path["argv"] == [path["cwd"]] == [str(tmp_path / name)] == [path["environment"].pop(RUN_VARIABLE)]
        assert str(tmp_path / name / "trainer.log") in path["files"]
        assert "hf_sesame" not in json.dumps(path["environment"])
        assert (tmp_path / name / "trainer.log").read_text() == "the secret is [secret]\n"
        assert (tmp_path / name / "generated" / "code.py").exists()
        for own in ("argv", "cwd", "files", "pid", "group", "random"):
            path.pop(own)
    assert got == expected
    assert not standby.folder.exists()
    ended(tmp_path / "fresh", fresh)
    ended(tmp_path / "warm", warm)


def test_the_ranks_of_a_job_are_one_group_whatever_they_were_before(start: Start, tmp_path: Path) -> None:
    ranks = run(tmp_path / "run", [start(), None, start()], 3)
    seen = [found(tmp_path / "run", rank) for rank in range(3)]
    assert [one["environment"]["RANK"] for one in seen] == ["0", "1", "2"]
    assert {one["group"] for one in seen} == {seen[0]["pid"]}
    assert [one["pid"] for one in seen] == [process.pid for process in ranks.processes]
    os.killpg(seen[0]["pid"], signal.SIGKILL)
    wait_for(lambda: not ranks.alive(), 30)
    ranks.kill()


def test_nothing_of_a_job_is_seen_by_the_next_one(start: Start, tmp_path: Path) -> None:
    first = run(tmp_path / "first", [start()], OMP_SECRET_OF_THE_FIRST="1")
    seen = found(tmp_path / "first")
    ended(tmp_path / "first", first)
    standby = start()
    second = Ranks.spawn(MODULE, _made(tmp_path / "second"), 1, {"CUDA_VISIBLE_DEVICES": ""}, {}, [standby])
    got = found(tmp_path / "second")
    assert got["pid"] != seen["pid"]
    assert got["secret"] is None
    assert "OMP_SECRET_OF_THE_FIRST" not in got["environment"]
    assert not got["left"]
    assert got["random"] != seen["random"]
    assert str(tmp_path / "first") not in json.dumps(got)
    ended(tmp_path / "second", second)


def test_one_that_still_imports_is_waited_for(start: Start, tmp_path: Path) -> None:
    standby = start(ready=False)
    ranks = run(tmp_path / "run", [standby])
    assert found(tmp_path / "run")["pid"] == standby.process.pid
    ended(tmp_path / "run", ranks)


@pytest.mark.parametrize("fault", ["killed", "stopped", "dies in its imports", "hangs in its imports"])
def test_another_process_takes_the_place_of_one_that_does_not_answer(
    start: Start, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.standby.TAKE_S", 0.5)
    word = {"dies in its imports": "die", "hangs in its imports": "hang"}.get(fault)
    if word is not None:
        standby = start(ready=False, **{FAULT: word})
    else:
        standby = start()
        standby.process.send_signal(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    ranks = run(tmp_path / "run", [standby])
    assert found(tmp_path / "run")["pid"] == ranks.processes[0].pid != standby.process.pid
    assert not psutil.pid_exists(standby.process.pid)
    assert not standby.folder.exists()
    standby.end()  # again, as whoever lent it does
    ended(tmp_path / "run", ranks)


def test_one_that_is_not_told_to_go_begins_nothing(start: Start, tmp_path: Path) -> None:
    """The worker died, or gave up on it, between its order and its answer."""
    standby, folder = start(), _made(tmp_path / "run")
    order = {"run_dir": str(folder), "environment": {"RANK": "0"}, "secrets": {}, "group": 0}
    say(standby.control, order)
    wait_for(lambda: standby.look() or standby.taken)
    standby.control.close()
    assert standby.process.wait(30) == 75
    assert not list(folder.glob("*probe*"))


@pytest.mark.parametrize("fault", [None, "hang"])
def test_it_leaves_with_its_worker(start: Start, fault: str | None) -> None:
    standby = start(ready=fault is None, **({} if fault is None else {FAULT: fault}))
    os.close(standby.heartbeat)
    standby.process.wait(30)
    assert standby.process.returncode == 75


def test_only_what_it_has_not_looked_at_may_differ(start: Start) -> None:
    standby = start(CUDA_VISIBLE_DEVICES="GPU-a", OMP_NUM_THREADS="1")
    assert standby.fits({"CUDA_VISIBLE_DEVICES": "GPU-a", "OMP_NUM_THREADS": "1"})
    assert standby.fits({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b", "OMP_NUM_THREADS": "1"})
    assert not standby.fits({"CUDA_VISIBLE_DEVICES": "GPU-a", "OMP_NUM_THREADS": "2"})
    standby.has_cuda = True
    assert not standby.fits({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b", "OMP_NUM_THREADS": "1"})


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
