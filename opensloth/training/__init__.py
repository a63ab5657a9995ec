"""One training run: what a trainer process does between its run specification and its result."""
