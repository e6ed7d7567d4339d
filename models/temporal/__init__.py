"""Temporal layers: an image network that sees all frames of a clip."""
