"""Times and sizes as people type them: `90d`, `500GB`, `none`."""

from __future__ import annotations

import re

import typer

_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def seconds(text: str | None, option: str) -> float | None:
    """`12h` or `90d` in seconds; raises BadParameter naming the option."""
    return None if text is None else _quantity(text, _TIMES, option, "12h or 90d")


def size_limit(text: str, option: str) -> int | None:
    """`500GB` in bytes, None for `none`; raises BadParameter naming the option."""
    return None if text == "none" else int(_quantity(text.upper(), _SIZES, option, "500GB, 2TiB or none"))


def count_limit(text: str, option: str) -> int | None:
    """A whole number, None for `none`; raises BadParameter naming the option."""
    return None if text == "none" else int(_quantity(text, {"": 1}, option, "4 or none"))


def hours_limit(text: str, option: str) -> float | None:
    """A number of hours, None for `none`; raises BadParameter naming the option."""
    return None if text == "none" else _quantity(text, {"": 1, "h": 1}, option, "200 or none")


def _quantity(text: str, units: dict[str, int], option: str, examples: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise typer.BadParameter(f"{text!r} is not understood; write {examples}", param_hint=option)
    return float(match[1]) * units[match[2]]
