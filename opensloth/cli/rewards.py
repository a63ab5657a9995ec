"""`opensloth rewards`: what GRPO can score answers with."""

from __future__ import annotations

from rich.text import Text

from opensloth.cli.output import Json, out, print_json, table
from opensloth.client import Client, Reward


def rewards(as_json: Json = False) -> None:
    """List the rewards that a GRPO job may name, with their parameters and the columns they read."""
    with Client() as client:
        found = client.rewards.list()
    if as_json:
        print_json([reward.as_json() for reward in found])
        return
    rows = [
        (Text(reward.name, style="cyan"), _parameters(reward), ", ".join(reward.columns) or "-", reward.description)
        for reward in found
    ]
    out().print(table(["Name", "Parameters", "Columns", "What it scores"], rows))


def _parameters(reward: Reward) -> str:
    required = reward.parameters.get("required") or []
    names = reward.parameters.get("properties") or {}
    return ", ".join(f"{name}*" if name in required else str(name) for name in names) or "-"
