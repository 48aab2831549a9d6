"""Read and write the record format: shards, their manifest and their statistics."""
