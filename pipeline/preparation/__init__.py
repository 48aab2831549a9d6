"""Raw images to shards: plan, tasks, workers, and what is done to finished shards."""
