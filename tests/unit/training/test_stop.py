"""Before the slow imports are through, SIGTERM already ends a trainer as stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from opensloth.training.stop import Stop

STARTING = """
import sys, types
from opensloth.training import main
import opensloth.init_modules
def load(*args, **kwargs):
    print("loading", flush=True)
    while True:
        pass
opensloth.init_modules.init_process_group = load
sys.argv = ["main", sys.argv[1]]
main.main()
"""


def test_while_it_is_loading_a_trainer_leaves_at_once_and_says_so(tmp_path: Path) -> None:
    from tests.support.training import make_run, records

    spec = make_run(tmp_path, tmp_path, resume_from="jobs/x/checkpoints/step-00000007")
    process = subprocess.Popen([sys.executable, "-c", STARTING, spec.run_dir], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 10
    assert records(spec, "stopped") == [{"step": 7, "complete": False}]


class Store(dict):
    """What `agree_to_train` uses of a TCPStore."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def wait(self, keys: list[str], timeout: object) -> None:
        while not self.check(keys):
            pass


class Left(Exception):
    """Instead of leaving the process."""


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> list[Stop]:
    """Two ranks whose leaving raises."""

    def leave(self: Stop) -> None:
        raise Left

    monkeypatch.setattr(Stop, "leave", leave)
    return [Stop(), Stop()]


def _agree(ranks: list[Stop]) -> list[str]:
    store, outcomes = Store(), ["", ""]

    def one(rank: int) -> None:
        try:
            ranks[rank].agree_to_train(store, rank, 2)
            outcomes[rank] = "train"
        except Left:
            outcomes[rank] = "stop"

    threads = [threading.Thread(target=one, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return outcomes


def test_ranks_begin_together(ranks: list[Stop]) -> None:
    assert _agree(ranks) == ["train", "train"]


def test_a_stop_that_rank_0_heard_before_training_stops_both(ranks: list[Stop]) -> None:
    ranks[0].requested = True
    assert _agree(ranks) == ["stop", "stop"]


def test_a_stop_that_only_another_rank_heard_is_left_to_the_first_step(ranks: list[Stop]) -> None:
    ranks[1].requested = True
    assert _agree(ranks) == ["train", "train"]


def test_a_single_process_stops_where_a_stop_came_before_training(ranks: list[Stop]) -> None:
    ranks[0].requested = True
    with pytest.raises(Left):
        ranks[0].agree_to_train(None, 0, 1)


def test_once_training_a_signal_only_leaves_a_note() -> None:
    stop = Stop()
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop.install()
        stop.agree_to_train(None, 0, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)
