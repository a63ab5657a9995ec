"""Dataset files: what their rows may look like, how they are read, checked while they are uploaded, and kept."""
