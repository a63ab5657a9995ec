"""The registry of base models and of what jobs made of them."""
