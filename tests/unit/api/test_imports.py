import json
import subprocess
import sys
from pathlib import Path

import pytest

FOREIGN = {"torch", "transformers", "trl", "peft", "unsloth", "datasets", "accelerate", "pyarrow", "numpy", "worker"}
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
    # Seconds of CPU and the best of three: other tests run beside this one.
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", PROBE], cwd=root, capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    return min((took, memory, modules) for took, memory, modules in runs)


def test_the_api_imports_nothing_that_trains(probe):
    modules = probe[2]
    assert {name.split(".")[0] for name in modules} & FOREIGN == set()
    assert [name for name in modules if name.startswith("opensloth.training.")] == []
    assert {"opensloth.trainer_factory", "opensloth.init_modules", "opensloth.datasets.prepare"} & set(modules) == set()


def test_the_api_is_imported_quickly_into_little_memory(probe):
    took, memory, _ = probe
    assert took < 1.5
    assert memory < 150 * 2**20
