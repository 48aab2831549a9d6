"""From shards to batches: record order, augmentation draws, views, and the CPU and GPU engines."""
