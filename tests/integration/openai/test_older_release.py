"""The same tests by the newest openai package of a year before: teams do not move all of their scripts at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

YEAR_OLD = "2.8.1"
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_release_of_a_year_before_is_served_as_well(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps"]
    # What it needs is here for the newest release already, but for one package.
    subprocess.run([*uv, "--target", str(packages), f"openai=={YEAR_OLD}", "distro"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    asked = [sys.executable, "-c", "import openai; print(openai.__version__)"]
    shown = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == YEAR_OLD
    tests = [sys.executable, "-m", "pytest", str(HERE), "-m", "not slow and not gpu", "-p", "no:cacheprovider", "-rp"]
    # That release reads webhooks and has no calls to make them, which these two make.
    tests += [f"--ignore={HERE / name}" for name in ("test_webhooks.py", "test_retries.py")]
    done = subprocess.run(tests, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "test_life_of_a_job.py::test_a_job_is_followed_to_its_model" in done.stdout
