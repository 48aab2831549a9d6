"""Export of trained networks for other programs."""
