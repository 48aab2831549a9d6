"""Shards to batches: order, draws, views, and the two engines."""
