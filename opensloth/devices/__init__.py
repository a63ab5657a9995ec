"""Hosts and their devices, and who holds them."""
