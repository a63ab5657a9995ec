"""Backups of a box: the database as it was at one moment, and the storage if asked for."""
