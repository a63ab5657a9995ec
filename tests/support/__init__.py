"""Real parts for the tests: servers, services, a tiny model, a fast stand-in for the trainer."""
