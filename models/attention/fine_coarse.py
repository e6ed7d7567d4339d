"""Fine-coarse frame attention: a frame sees all of itself and a smaller picture of every other. arXiv:2305.17431.

Keys and values of frame i are its own tokens and those of all other frames at half the sides: ``n + (f - 1) n / 4``
instead of ``f n``. Keys and values are linear in what they are made of, so it is they that are pooled.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from models.attention.installed import Policy

Coarse = Literal["average", "stride", "none"]


def fine_coarse(frames: int, height: int, width: int, coarse: Coarse = "average") -> Policy:
    """The policy for clips of this many frames and latents of this size: ``(b f) n d`` -> ``(b f) m d``.

    Other frames are averaged over 2×2 places, or every second place is taken; with ``none`` they are not seen. Odd
    sides are rounded up. ValueError for a layer whose tokens are not those of the latents halved.
    """
    if coarse == "none" or frames == 1:
        return lambda query, key, value: (query, key, value)
    others = torch.tensor([[j for j in range(frames) if j != i] for i in range(frames)])

    def seen(tokens: Tensor) -> Tensor:
        rows, columns = grid(tokens.shape[1], height, width)
        picture = rearrange(tokens, "b (h w) d -> b d h w", h=rows, w=columns)
        if coarse == "average":
            small = F.avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)
        else:
            small = picture[..., ::2, ::2]
        clip = rearrange(small, "(b f) d h w -> b f (h w) d", f=frames)[:, others]  # b f (f-1) n/4 d
        return torch.cat([tokens, rearrange(clip, "b f g n d -> (b f) (g n) d")], dim=1)

    return lambda query, key, value: (query, seen(key), seen(value))


def grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a layer with so many tokens; layers are made by halving, odd sides rounded up."""
    while height * width > tokens and height * width > 1:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != tokens:
        raise ValueError(f"no layer of these latents has {tokens} tokens")
    return height, width
