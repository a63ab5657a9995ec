"""`import api.main` in a fresh process, medians of five, and the memory of the API process after it has served.

On a machine that does other things too, the seconds of CPU say more than those of the clock.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import psutil

from benchmarks.support import ROOT, save, service

CODE = """
import time
began, cpu = time.perf_counter(), time.process_time()
import api.main
print(time.perf_counter() - began, time.process_time() - cpu)
"""


def main(options: list[str]) -> None:
    runs = [
        subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(6)
    ][1:]
    wall_s, cpu_s = (statistics.median(map(float, column)) for column in zip(*map(str.split, runs), strict=True))
    with service() as bench, bench.client() as client:
        for _ in range(50):
            client.get("/v1/jobs").raise_for_status()
        memory = psutil.Process(bench.api.pid).memory_info().rss
    figures = {"import_s": round(wall_s, 3), "import_cpu_s": round(cpu_s, 3), "api_rss_mb": round(memory / 1e6, 1)}
    save("imports", figures)
