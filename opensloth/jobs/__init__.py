"""A job from its acceptance to its end: spec, state machine, rows and the service that alone writes its state."""
