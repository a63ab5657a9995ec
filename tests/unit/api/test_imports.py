import json
import subprocess
import sys
from pathlib import Path

import pytest

FOREIGN = {"torch", "transformers", "trl", "peft", "unsloth", "datasets", "accelerate", "pyarrow", "numpy", "worker"}
PROBE = """
import json, sys
import api.main
import psutil
print(json.dumps([psutil.Process().memory_info().rss, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def probe() -> tuple[int, list[str]]:
    """Bytes of memory and loaded modules of a fresh process that imports the API."""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=root, capture_output=True, check=True)
    memory, modules = json.loads(done.stdout)
    return memory, modules


def test_the_api_imports_nothing_that_trains(probe):
    modules = probe[1]
    assert {name.split(".")[0] for name in modules} & FOREIGN == set()
    assert [name for name in modules if name.startswith("opensloth.training.")] == []
    assert {"opensloth.trainer_factory", "opensloth.init_modules", "opensloth.datasets.prepare"} & set(modules) == set()


def test_the_api_is_imported_into_little_memory(probe):
    # How long it takes is measured by benchmarks/imports.py, on a machine that does nothing else.
    assert probe[0] < 150 * 2**20
