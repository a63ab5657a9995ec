import json
import subprocess
import sys
from pathlib import Path

import pytest

FOREIGN = {"torch", "transformers", "trl", "peft", "unsloth", "datasets", "accelerate", "pyarrow", "numpy", "worker"}
PROBE = """
import json, sys, time
started = time.process_time()
import {what}
took = time.process_time() - started
import psutil
print(json.dumps([took, psutil.Process().memory_info().rss, sorted(sys.modules)]))
"""


def imported(what: str) -> tuple[float, int, list[str]]:
    """Seconds of CPU, bytes of memory and loaded modules of a fresh process that imports `what`."""
    root = Path(__file__).resolve().parents[3]
    code = PROBE.format(what=what)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    took, memory, modules = json.loads(done.stdout)
    return took, memory, modules


@pytest.fixture(scope="module")
def probe() -> tuple[float, int, list[str]]:
    return imported("api.main")


def test_the_api_imports_nothing_that_trains(probe):
    modules = probe[2]
    assert {name.split(".")[0] for name in modules} & FOREIGN == set()
    assert [name for name in modules if name.startswith("opensloth.training.")] == []
    assert {"opensloth.trainer_factory", "opensloth.init_modules", "opensloth.datasets.prepare"} & set(modules) == set()


def test_the_api_is_imported_quickly_into_little_memory(probe):
    took, memory, _ = probe
    assert memory < 150 * 2**20
    if took >= 1.5:
        # Other tests make this machine slow: then what the two frameworks alone take is the measure.
        assert took < 2.5 * imported("fastapi, sqlalchemy.orm")[0]
