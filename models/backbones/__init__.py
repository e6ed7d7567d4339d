"""What denoises: a VAE, a text encoder and a denoiser behind one small interface."""
