import json
import subprocess
import sys
from pathlib import Path

import pytest

FOREIGN = {"torch", "transformers", "trl", "peft", "unsloth", "datasets", "accelerate", "pyarrow", "numpy", "worker"}
LIMIT_S = 1.5
PROBE = """
import json, sys, time
started = time.process_time()
import api.main
took = time.process_time() - started
import psutil
print(json.dumps([took, psutil.Process().memory_info().rss, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def probe() -> tuple[float, int, list[str]]:
    root = Path(__file__).resolve().parents[3]
    best: tuple[float, int, list[str]] | None = None
    # Seconds of CPU, and the best of some: other tests run beside this one.
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", PROBE], cwd=root, capture_output=True, check=True)
        run = tuple(json.loads(done.stdout))
        best = run if best is None else min(best, run)
        if best[0] < LIMIT_S:
            break
    assert best is not None
    return best


def test_the_api_imports_nothing_that_trains(probe):
    modules = probe[2]
    assert {name.split(".")[0] for name in modules} & FOREIGN == set()
    assert [name for name in modules if name.startswith("opensloth.training.")] == []
    assert {"opensloth.trainer_factory", "opensloth.init_modules", "opensloth.datasets.prepare"} & set(modules) == set()


def test_the_api_is_imported_quickly_into_little_memory(probe):
    took, memory, _ = probe
    assert took < LIMIT_S
    assert memory < 150 * 2**20
