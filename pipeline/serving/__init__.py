"""Batches and records over the network."""
