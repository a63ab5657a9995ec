"""Chat with a model: what is asked, which engine answers, and the engine itself."""
