"""`python -m opensloth.cli`: the command where no console script is installed."""

from opensloth.cli import main

main()
