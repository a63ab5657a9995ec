"""A checkpoint that carries code: nothing of it runs when a job resumes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from signal import SIGKILL

import pytest
import torch

from opensloth.storage import Storage
from tests.support.training import Signal, TrainerHost, log, make_run, next_attempt, records


class Code:
    """Unpickled without restraint, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt", "training_args.bin"])
def test_code_in_a_checkpoint_is_not_run(tiny_model: Path, trainers: TrainerHost, tmp_path: Path, name: str) -> None:
    killed = make_run(tmp_path, tiny_model, name="killed", arguments={"save_steps": 2, "max_steps": 4})
    assert trainers.run(killed, Signal(SIGKILL, step=3)) == -SIGKILL, log(killed)
    key, proof, storage = f"{killed.checkpoint_key}/step-00000002", tmp_path / "it-ran", Storage(killed.storage_url)
    copy = tmp_path / "copy"
    storage.get_tree(key, copy)
    assert (copy / name).exists() or name == "training_args.bin"
    torch.save({"state": Code(proof)}, copy / name)
    storage.put_tree(copy, key, move=True)  # its manifest is right: who can write there can write that too
    storage.verify_tree(key)

    resumed = next_attempt(killed, step=2)
    code = trainers.run(resumed)
    assert not proof.exists()
    if name == "training_args.bin":  # nothing reads it
        assert code == 0, log(resumed)
    else:
        failure = records(resumed, "failure")[0]
        assert "weights_only" in failure["message"] + str(failure["detail"]), failure
    shutil.rmtree(copy, ignore_errors=True)
    torch.load(Path(storage.local_path(key) or "") / name, weights_only=False)
    assert proof.exists()  # it would have
