"""Where an edit starts from noise and a clip that has lost its detail. arXiv:2302.01329, sec. 3.2."""

import torch
import torch.nn.functional as F

from models.types import Frames

VERSION = 1


def degraded(frames: Frames, factor: float, stride: int = 1) -> Frames:
    """The clip scaled down by a factor and up again (bilinear), with one frame of every ``stride`` held for all."""
    count, _, height, width = frames.shape
    held = frames[torch.arange(count) // stride * stride]
    small = (max(1, round(height / factor)), max(1, round(width / factor)))
    down = F.interpolate(held, size=small, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(down, size=(height, width), mode="bilinear", align_corners=False).clamp(0, 1)
