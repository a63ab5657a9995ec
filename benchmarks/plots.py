"""The plots of docs/performance.md from what is in benchmarks/results: `python -m benchmarks plots`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.support import RESULTS, ROOT

IMAGES = ROOT / "docs" / "images"
COLOURS = {"opensloth transformers": "#2a78d6", "opensloth unsloth": "#1baf7a", "bare unsloth": "#eda100"}
LABEL, BAR, HEIGHT = 300, 420, 26


def main(_: Sequence[str]) -> None:
    engines = json.loads((RESULTS / "engines.json").read_text())
    cells = [cell for cell in engines["cells"] if "tokens_per_second" in cell]
    cells.sort(key=lambda cell: (cell["name"].split()[0], cell["method"] != "sft", -cell["tokens_per_second"]))
    title = f"Tokens/s on one {engines['gpu']}, by engine"
    write(IMAGES / "engines.svg", title, [(side_of(cell), cell["name"], cell["tokens_per_second"]) for cell in cells])
    memory = [(side_of(cell), cell["name"], round(cell["peak_reserved"] / 2**30, 1)) for cell in cells]
    write(IMAGES / "engines-memory.svg", "Peak memory in GiB, by engine", memory)


def side_of(cell: dict[str, Any]) -> str:
    """Who trained."""
    return "bare unsloth" if cell["side"] == "bare" else f"{cell['side']} {cell['engine']}"


def write(path: Path, title: str, bars: Sequence[tuple[str, str, float]]) -> None:
    """Horizontal bars with their values, and a legend."""
    most = max(value for _, _, value in bars)
    height = 70 + HEIGHT * len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABEL + BAR + 90} {height}" '
        'font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="16">{escape(title)}</text>',
    ]
    for place, (side, colour) in enumerate(COLOURS.items()):
        x = 10 + place * 190
        parts.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="45">{escape(side)}</text>')
    for place, (side, name, value) in enumerate(bars):
        y, width = 62 + HEIGHT * place, BAR * value / most
        parts.append(f'<text x="{LABEL - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="18" fill="{COLOURS.get(side, "#888")}"/>')
        parts.append(f'<text x="{LABEL + width + 6:.1f}" y="{y + 14}">{value:,g}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
