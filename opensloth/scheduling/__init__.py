"""Who runs where and when, as pure functions: jobs and devices in, placements out."""
