"""What stands still keeps its noise: flow smooths inverted latents. arXiv:2310.01107, sec. 3.3."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from models.conditions.optical_flow import Flow
from models.types import Latents

VERSION = 1


def moving(flow: Flow, size: Sequence[int], threshold: float) -> Bool[Tensor, "g height width"]:
    """Where flow is longer than this fraction of the longest of its pair, at ``size`` (height, width)."""
    length = flow.square().sum(dim=1, keepdim=True).sqrt()
    longest = length.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(length.dtype).tiny)
    share = functional.interpolate(length / longest, size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    return share > threshold


def carried(latents: Latents, mask: Bool[Tensor, "g h w"]) -> Latents:
    """Where the mask says a place does not move, the latents of the frame before, itself already smoothed."""
    frames = [latents[:, :, 0]]
    for index, still in enumerate(~mask.to(latents.device), start=1):
        frames.append(torch.where(still, frames[-1], latents[:, :, index]))
    return torch.stack(frames, dim=2)
