"""What scripts import to train on this machine, without the service."""
