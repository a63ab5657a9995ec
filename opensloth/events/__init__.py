"""What a job tells: records from its trainer, rows in the database, a live stream through Redis."""
