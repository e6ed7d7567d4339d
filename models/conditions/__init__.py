"""Conditions: per-frame signals estimated from a clip, and how they reach the network."""
