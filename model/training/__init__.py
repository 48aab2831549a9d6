"""The training loop, the update rule, the schedules, and the layouts of a network over ranks."""
