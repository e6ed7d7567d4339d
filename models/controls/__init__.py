"""Attention control: edits of attention maps while they are used. Prompt-to-Prompt (arXiv:2208.01626) and its kin."""
