"""Random kills on a whole box, and what must not come of them; `python -m tests.chaos` runs it."""
