"""Who may do what: API keys and the callers that they stand for."""
