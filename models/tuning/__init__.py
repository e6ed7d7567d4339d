"""Tuning: which weights move, and the loop that moves them."""
