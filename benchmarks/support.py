"""A service for a benchmark, percentiles, and where results go."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from migrations.__main__ import upgrade
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.servers import valkey
from tests.support.up_process import free_port

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Bench:
    """The services of a benchmark, and the API process over them."""

    services: Services
    url: str
    key: str
    api: subprocess.Popen[bytes]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)


@contextlib.contextmanager
def service(values: dict[str, Any] | None = None) -> Iterator[Bench]:
    """SQLite, Valkey and the API as `opensloth up` starts it, on a free port, in a temporary home.

    `values` are settings for the worker.
    """
    with tempfile.TemporaryDirectory(prefix="opensloth-bench-") as home, valkey() as redis_url:
        settings = Settings(home=Path(home), redis_url=redis_url, host_id="bench", **(values or {}))
        upgrade(settings.database)
        services = Services.make(settings)
        key = services.keys.bootstrap() or ""
        port = free_port()
        api = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "uvicorn",
                "api.main:app",
                "--port",
                str(port),
                "--no-access-log",
                "--log-level",
                "error",
            ],
            cwd=ROOT,
            env={**os.environ, "OPENSLOTH_HOME": home, "OPENSLOTH_REDIS_URL": redis_url},
        )
        bench = Bench(services, f"http://127.0.0.1:{port}", key, api)
        try:
            _wait_ready(bench.url)
            yield bench
        finally:
            api.terminate()
            api.wait()
            services.database.engine.dispose()


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, rounded for reading."""
    return {
        "p50": round(statistics.median(values), 3),
        "p99": round(percentile(values, 99), 3),
        "max": round(max(values), 3),
        "n": len(values),
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Print the result and keep it beside the command that made it."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    kept = {"command": f"python -m benchmarks {name}", "date": time.strftime("%Y-%m-%d"), **machine, **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(result, indent=1), flush=True)


def _wait_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the API at {url} did not become ready")
