"""The training methods, one module each: from a resolved config to a trainer."""
