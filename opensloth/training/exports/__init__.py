"""Exports: a result merged, as GGUF or as an adapter, checked by loading it, and pushed to the hub."""
