"""Attention: processors that are installed and taken out again, and policies for the keys and values they see."""
