"""Trained networks, measured and used."""
