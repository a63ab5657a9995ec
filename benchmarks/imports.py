"""`import api.main` in a fresh process (median of five) and the memory of the API process after it has served."""

from __future__ import annotations

import statistics
import subprocess
import sys

import psutil

from benchmarks.support import ROOT, save, service

CODE = "import time; began = time.perf_counter(); import api.main; print(time.perf_counter() - began)"


def main(options: list[str]) -> None:
    times = [
        float(subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(6)
    ][1:]
    with service() as bench, bench.client() as client:
        for _ in range(50):
            client.get("/v1/jobs").raise_for_status()
        memory = psutil.Process(bench.api.pid).memory_info().rss
    save("imports", {"import_s": round(statistics.median(times), 3), "api_rss_mb": round(memory / 1e6, 1)})
