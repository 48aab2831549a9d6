"""Processes of a run: ranks, loggers, the profiler."""
