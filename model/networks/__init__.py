"""The networks and their layers."""
