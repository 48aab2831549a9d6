"""Image bytes to pixels and back, and exact sums over pixels."""
