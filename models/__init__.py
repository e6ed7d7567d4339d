"""Knows how: tensors in, tensors out. No web, no queue, no environment variables."""
