"""Inversion: from clean latents to the noise that leads back to them."""
