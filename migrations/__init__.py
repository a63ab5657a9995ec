"""The database's schema over time; `python -m migrations` brings a database up to date."""
