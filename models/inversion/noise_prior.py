"""Start from a clip's own noise mixed with fresh noise. arXiv:2310.08465, official code."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.types import Latents

VERSION = 1


def mixed(inverted: Float[Tensor, "b c f rows columns"], fresh: Latents, share: float) -> Latents:
    """``sqrt(share) inverted + sqrt(1 - share) fresh``, of unit variance when both are.

    Inverted noise of another height and width is resized bilinearly, each frame by itself, which lowers its variance.
    """
    frames, height, width = fresh.shape[2:]
    if inverted.shape[-2:] != fresh.shape[-2:]:
        flat = F.interpolate(inverted.flatten(1, 2), size=(height, width), mode="bilinear", align_corners=False)
        inverted = flat.unflatten(1, (-1, frames))
    return math.sqrt(share) * inverted + math.sqrt(1 - share) * fresh
