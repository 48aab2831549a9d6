"""Processes of a run: ranks, signals, watchdog, loggers, profiler."""
