"""A real trainer that has done its imports before the job: it trains as any other does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from opensloth.training.run_spec import EVENTS_NAME, RunSpec
from tests.support.jobs import wait_for
from tests.support.training import TrainerHost, curve, log, make_run, records
from worker.processes import Ranks
from worker.standby import Standby

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODULE = "opensloth.training.main"
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SECRET = "hf_of_the_first_job"


def begun(spec: RunSpec) -> bool:
    """Whether a job's first step is done; its records are not there before it has some."""
    return (Path(spec.run_dir) / EVENTS_NAME).exists() and bool(records(spec, "started"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_jobs_train_in_standbys_as_they_would_in_new_processes(
    tmp_path: Path, tiny_model: Path, trainers: TrainerHost
) -> None:
    arguments = {"max_steps": 4, "seed": 7}
    expected = make_run(tmp_path, tiny_model, name="expected", arguments=arguments)
    assert trainers.run(expected) == 0, log(expected)
    pids = []
    for name, secrets in (("first", {"model": SECRET}), ("second", {})):
        standby = Standby.start(MODULE, "transformers", ENVIRONMENT, "same", tmp_path / f"standby-{name}")
        wait_for(lambda one=standby: one.look() or one.ready or one.is_over, 600, 0.1)
        assert standby.ready, standby.told()
        assert not standby.has_cuda
        spec = make_run(tmp_path, tiny_model, name=name, arguments=arguments)
        ranks = Ranks.spawn(MODULE, Path(spec.run_dir), 1, ENVIRONMENT, secrets, [standby])
        try:
            pid = ranks.processes[0].pid
            wait_for(lambda spec=spec, ranks=ranks: begun(spec) or not ranks.alive(), 300, 0.1)
            if ranks.alive():
                environ = Path(f"/proc/{pid}/environ").read_bytes()
                assert SECRET.encode() not in environ
                assert os.getpgid(pid) == pid
            wait_for(lambda ranks=ranks: not ranks.alive(), 300, 0.1)
            assert ranks.poll() == [0], log(spec)
        finally:
            ranks.kill()
        pids.append(pid)
        assert curve(spec) == curve(expected), "the same seeds, the same numbers"
        (started,) = records(spec, "started")
        assert started["timings"].keys() == {"imports_s", "model_s", "data_and_trainer_s", "first_step_s"}
        assert SECRET not in log(spec)
    assert pids[0] != pids[1]
    assert not any(psutil.pid_exists(pid) for pid in pids)
