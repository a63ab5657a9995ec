"""Which standbys a host keeps, and when."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from opensloth.devices.inventory import FoundDevice
from opensloth.devices.readings import Reading
from opensloth.settings import Settings
from tests.support.jobs import wait_for
from tests.support.probe_trainer import FAULT
from tests.support.up_process import is_gone
from worker import standby_pool
from worker.launch import training_environment
from worker.standby import Standby
from worker.standby_pool import StandbyPool

SLOTS = [FoundDevice(f"box:cpu{n}", "cpu", n, "CPU slot", 1 << 40) for n in range(2)]
MakePool = Callable[..., StandbyPool]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePool]:
    pools: list[StandbyPool] = []
    monkeypatch.setattr(standby_pool, "LOOK_S", 0.02)
    monkeypatch.setattr(standby_pool, "memory_left", lambda: (1 << 40, 1))

    def made(devices: list[FoundDevice] | None = None, standby: int | None = 1) -> StandbyPool:
        settings = Settings(home=tmp_path / "home", trainer_module="tests.support.probe_trainer", standby=standby)
        pool = StandbyPool(settings, {device.id: device for device in devices or SLOTS[:1]})
        pools.append(pool)
        pool.start()
        return pool

    yield made
    for pool in pools:
        pool.stop()


def environment(pool: StandbyPool) -> dict[str, str]:
    return training_environment(pool.settings, SLOTS[:1], len(pool.devices), offline=True)


def kept(pool: StandbyPool, engine: str = "transformers") -> list[Standby]:
    """Those that are ready."""
    standbys = [place.standby for place in pool.places() if place.engine == engine]
    return [standby for standby in standbys if standby is not None and standby.ready]


def lend(pool: StandbyPool, job: str, engine: str = "transformers") -> int | None:
    """The pid of the standby that the job would get; it ends at once."""
    with pool.lend(job, engine, SLOTS[:1], environment(pool)) as (standby,):
        return None if standby is None else standby.process.pid


def test_each_device_has_one_and_gets_another_after_the_first_step(make: MakePool) -> None:
    pool = make(SLOTS)
    wait_for(lambda: len(kept(pool)) == 2)
    taken = lend(pool, "job")
    assert taken is not None
    assert not psutil.pid_exists(taken), "it was lent and not handed over"
    standby_pool_rounds(pool, 3)
    assert len(kept(pool)) == 1, "none is started while the job starts"
    pool.settled("job")
    wait_for(lambda: len(kept(pool)) == 2)


def test_a_device_keeps_the_engine_that_was_used_last(make: MakePool) -> None:
    pool = make()
    wait_for(lambda: kept(pool))
    assert lend(pool, "job", "unsloth") is None
    pool.settled("job")
    wait_for(lambda: kept(pool, "unsloth"))
    assert not kept(pool, "transformers"), "the setting says one"
    assert lend(pool, "next", "unsloth") is not None


def test_both_engines_are_kept_where_the_setting_allows_it(make: MakePool) -> None:
    pool = make(standby=2)
    assert lend(pool, "job", "unsloth") is None
    pool.settled("job")
    wait_for(lambda: kept(pool, "unsloth") and kept(pool, "transformers"))


def test_zero_keeps_none_and_a_cpu_slot_has_none_by_itself(make: MakePool) -> None:
    for pool in (make(standby=0), make(standby=None)):
        standby_pool_rounds(pool, 2)
        assert pool.places() == []
        with pool.lend("job", "transformers", SLOTS[:1], environment(pool)) as standbys:
            assert standbys == []
    gpu = FoundDevice("GPU-a", "cuda", 0, "H100", 1 << 36)
    assert pool.limit(gpu) == 2


def test_one_of_older_code_or_another_environment_is_not_used(make: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make()
    wait_for(lambda: kept(pool))
    with pool.lend("other", "transformers", SLOTS[:1], {"HF_HUB_OFFLINE": "0"}) as (standby,):
        assert standby is None
    pool.settled("other")
    wait_for(lambda: kept(pool))
    monkeypatch.setattr(standby_pool, "fingerprint", lambda module: "newer")
    with pool.lend("job", "transformers", SLOTS[:1], {"HF_HUB_OFFLINE": "0"}) as (standby,):
        assert standby is None


def test_they_make_room_when_the_hosts_memory_is_short(make: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make()
    wait_for(lambda: kept(pool))
    (standby,) = kept(pool)
    monkeypatch.setattr(standby_pool, "memory_left", lambda: (1 << 30, 1))
    wait_for(lambda: not pool.places()[0].standby)
    assert not psutil.pid_exists(standby.process.pid)
    monkeypatch.setattr(standby_pool, "memory_left", lambda: (1 << 40, 1))
    wait_for(lambda: kept(pool))


def test_one_that_may_hold_memory_of_a_full_gpu_makes_room(make: MakePool) -> None:
    gpu = FoundDevice("GPU-a", "cuda", 0, "H100", 80 << 30)
    pool = make([gpu])
    wait_for(lambda: kept(pool))
    (standby,) = kept(pool)
    pool.readings = lambda: {"GPU-a": Reading(0.0, 75 << 30)}
    standby_pool_rounds(pool, 2)
    assert kept(pool) == [standby], "it holds none, as it has not spoken to CUDA"
    standby.has_cuda = True
    wait_for(lambda: not psutil.pid_exists(standby.process.pid))
    standby_pool_rounds(pool, 2)
    assert not kept(pool)
    pool.readings = lambda: {"GPU-a": Reading(0.0, 20 << 30)}
    wait_for(lambda: kept(pool))


def test_imports_that_fail_are_not_tried_all_the_time(
    make: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(FAULT, "die")
    pool = make()
    wait_for(lambda: pool.places()[0].failures)
    assert "asked to die" in caplog.text
    standby_pool_rounds(pool, 3)
    assert pool.places()[0].failures == 1
    assert lend(pool, "job") is None


def test_what_an_earlier_worker_left_is_ended(make: MakePool, tmp_path: Path) -> None:
    pool = make()
    wait_for(lambda: kept(pool))
    (left,) = kept(pool)
    assert [entry["pid"] for entry in json.loads((tmp_path / "home/standby/standbys.json").read_text())] == [
        left.process.pid
    ]
    ended = psutil.Process(left.process.pid)
    ended.suspend()  # so that it does not notice that its worker is gone
    make()
    assert is_gone(ended)


def standby_pool_rounds(pool: StandbyPool, count: int) -> None:
    """Wait until the pool has looked at its standbys so often."""
    seen = pool.rounds
    wait_for(lambda: pool.rounds >= seen + count)
