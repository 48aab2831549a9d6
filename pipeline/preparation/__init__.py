"""Turn raw images into shards (plan, tasks, workers), and maintain finished data sets."""
