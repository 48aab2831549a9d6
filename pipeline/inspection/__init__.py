"""Inspect data and machine: replay, preview, statistical tests, bottlenecks, doctor, demo data."""
