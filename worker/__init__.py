"""The worker of a GPU host: plans, takes its placements, starts trainers and watches them."""
