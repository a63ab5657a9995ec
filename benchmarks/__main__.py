"""Run the benchmarks: `python -m benchmarks [NAME ...] [-- OPTIONS]`; without a name, all that need no GPU."""

from __future__ import annotations

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


def main() -> None:
    """Each benchmark is a module here with a `main(options)`."""
    given = sys.argv[1:]
    names, options = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    for name in names or ALL:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main(options)


if __name__ == "__main__":
    main()
