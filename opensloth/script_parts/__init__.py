"""What a bare TRL script is put together from."""
