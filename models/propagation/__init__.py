"""Propagation: carry what was edited in a few frames to all frames."""
