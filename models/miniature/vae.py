"""The linear code that the miniature's VAE starts from: principal components of the world's 8x8 patches."""

import torch
from torch import Tensor
from torch.nn import functional

from models.backbones.miniature_vae import PATCH as PATCH


def fit_linear_code(pictures: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of the 8x8 patches of pictures (n 3 h w) in -1...1.

    Returns mean (192), basis (192 channels) and the components' standard deviations (channels).
    """
    patches = functional.pixel_unshuffle(pictures, PATCH).movedim(1, -1).reshape(-1, 3 * PATCH * PATCH)
    mean = patches.double().mean(0)
    centred = patches.double() - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    order = values.argsort(descending=True)[:channels]
    basis, scale = vectors[:, order], values[order].clamp_min(1e-8).sqrt()
    return mean.float(), basis.float(), scale.float()
