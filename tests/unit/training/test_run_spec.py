"""The worker's side of a run needs no torch, and checkpoint keys tell their step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from opensloth.training.run_spec import checkpoint_name, checkpoint_step


def test_a_key_tells_its_step() -> None:
    assert checkpoint_name(12) == "step-00000012"
    assert checkpoint_step("jobs/ftjob-1/checkpoints/step-00000012") == 12
    for key in ("jobs/x/checkpoints", "jobs/x/step-abc", "jobs/x/overstep-1"):
        with pytest.raises(ValueError, match="no checkpoint key"):
            checkpoint_step(key)


def test_the_specification_imports_no_torch() -> None:
    code = "import sys, opensloth.training.run_spec; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
