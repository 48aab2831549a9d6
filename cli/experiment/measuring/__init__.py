"""Evaluation and use of trained networks."""
