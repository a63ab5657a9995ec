"""Run the benchmarks: `python -m benchmarks [NAME ...] [-- OPTIONS]`; without a name, all that need no GPU."""

from __future__ import annotations

import argparse
import importlib
import sys

ALL = (
    "imports",
    "http_api",
    "rate_limits",
    "events",
    "watchers",
    "prepare",
    "training",
    "plan",
    "claims",
    "simulate",
    "chat",
)
GPU = ("engines", "memory", "packing", "ranks", "startup", "plots")
"""What needs a GPU, and the plots of what was measured on one."""


def main() -> None:
    """Each benchmark is a module here with a `main(options)`."""
    given = sys.argv[1:]
    mine, options = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", epilog="`NAME -- --help` shows the options of one.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*ALL, *GPU]))
    names = parser.parse_args(mine).names
    if unknown := set(names) - {*ALL, *GPU}:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for name in names or ALL:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main(options)


if __name__ == "__main__":
    main()
