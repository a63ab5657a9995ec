"""Responses that go on: a job's events and its log while it runs."""
