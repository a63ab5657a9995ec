"""A host whose clock is a day off, either way: leases, backoff and times of events go by the database's clock."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import went_well
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.workers import running_worker, trainers_of

DAY_S = 86_400.0

# Python runs this in every process of the host before anything else.
OFF = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {offset}
time.time_ns = lambda: _time_ns() + int({offset}) * 10**9
"""


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("offset", [DAY_S, -DAY_S], ids=["ahead", "behind"])
def test_a_host_whose_clock_is_a_day_off_runs_retries_and_reaps_as_any_other(
    services: Services, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    settings = settings.model_copy(update={"lease_s": 8.0, "host_timeout_s": 20.0})
    other = settings.model_copy(update={"host_id": "other", "home": tmp_path / "other", "devices": "cpu:1"})
    (tmp_path / "site").mkdir()
    (tmp_path / "off").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OFF.format(offset=offset))
    with running_worker(other, tmp_path) as right:
        # The one whose clock is right holds the first job past several leases, and dies beside the one that is wrong.
        first = submit(services, "steps=100000 step_s=0.02 save=5")
        wait_for(lambda: services.jobs.checkpoints(first, ADMIN), timeout=60)
        path = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        with running_worker(settings, tmp_path / "off") as wrong:
            monkeypatch.undo()
            job_id = submit(services, "steps=150 step_s=0.03 save=10 kill@50")
            went_well(services, job_id, 150)
            job = services.jobs.get(job_id, ADMIN)
            assert job.attempt == 2, "one was killed, and none was lost with a lease"
            assert services.jobs.get(first, ADMIN).attempt == 1
            now = time.time()
            for event in services.events.list(job_id, limit=10_000):
                assert abs(datetime.fromisoformat(event.time).timestamp() - now) < 3600, event
            right.kill()
            wait_for(lambda: services.jobs.get(first, ADMIN).attempt == 2, timeout=60)
            wait_for_state(services, first, "running", timeout=60)
            assert len(trainers_of(first)) == 1
            services.control.cancel(first, ADMIN, save=False)
            wait_for_state(services, first, "cancelled", timeout=60)
            assert "its lease ran out" in wrong.log.read_text()
