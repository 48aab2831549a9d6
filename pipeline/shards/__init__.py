"""The record format: shards, their manifest and their statistics."""
