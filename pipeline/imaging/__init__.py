"""Convert image bytes to pixels and back, and sum pixels exactly."""
