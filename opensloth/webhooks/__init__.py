"""Webhooks: what happens to a team's jobs is posted, signed, to the addresses that the team registered."""
