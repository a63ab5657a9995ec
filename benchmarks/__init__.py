"""What the README and the docs claim, measured: `python -m benchmarks [NAME ...]`, results in `benchmarks/results/`."""
