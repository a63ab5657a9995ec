"""OpenSloth: one address for a team's GPUs."""

__version__ = "0.1.0"
