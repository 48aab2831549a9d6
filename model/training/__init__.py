"""The training loop, the update rule, the schedule, and how a network lies on several processes."""
