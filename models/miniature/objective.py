"""What every denoiser of the miniature is trained on: the error of the noise it predicts. arXiv:2006.11239, eq. 14."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.miniature.loop import autocast


def weighted_noise_error(
    clean: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, predict: Callable[[Tensor], Tensor]
) -> Tensor:
    """Squared error of the noise predicted for latents (b c h w, or b c f h w) noised to their timesteps (b).

    Weighted by SNR^(-1/2), between an even error of the noise and one of the clean latents.
    """
    alpha = alphas_cumprod[timesteps].reshape(-1, *[1] * (clean.ndim - 1))
    noise = torch.randn_like(clean)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    with autocast():
        predicted = predict(noisy)
    weight = ((1 - alpha) / alpha).sqrt()
    error: Tensor = (weight * (predicted.float() - noise).square()).mean()
    return error
