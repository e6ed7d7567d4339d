"""Optical flow between neighbouring frames, and where it can be trusted. DIS, arXiv:1603.03590, as OpenCV has it.

Flow is in pixels of the frames, ``g 2 h w`` with g = f - 1; channel 0 points right and channel 1 down. The *forward*
flow of pair i lies on frame i and points to frame i + 1, the *backward* flow lies on frame i + 1 and points to frame i.
DIS needs no weights and runs on the CPU in milliseconds a pair; RAFT is an extra (`raft`).
"""

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.types import Clip, Frames

VERSION = 1

Flow = Float[Tensor, "g 2 h w"]

SMALLEST = 96
"""Pictures with a shorter side are enlarged to it first: DIS matches patches of 8 pixels on a pyramid."""


def forward(clip: Clip) -> Flow:
    """Estimator: flow from every frame but the last to the one after it."""
    return between(clip.frames[:-1], clip.frames[1:])


def backward(clip: Clip) -> Flow:
    """Estimator: flow from every frame but the first to the one before it."""
    return between(clip.frames[1:], clip.frames[:-1])


def between(frames: Frames, others: Frames) -> Flow:
    """Flow from each frame to the other one of its pair, in pixels; float32 on the CPU."""
    pairs = len(frames)
    height, width = frames.shape[-2:]
    scale = max(1.0, SMALLEST / min(height, width))
    size = (round(height * scale), round(width * scale))
    matcher = _matcher()
    first, second = _grey(frames, size), _grey(others, size)
    flows = [torch.from_numpy(matcher.calc(first[i], second[i], None)).permute(2, 0, 1) for i in range(pairs)]
    flow = torch.stack(flows) if flows else torch.zeros(0, 2, *size)
    return resized(flow, (height, width)) if size != (height, width) and pairs else flow.float()


def resized(flow: Flow, size: tuple[int, int], *, mode: str = "bilinear") -> Float[Tensor, "g 2 height width"]:
    """Flow on a picture of another size (height, width): each component is scaled by its own ratio."""
    height, width = flow.shape[-2:]
    ratios = torch.tensor([size[1] / width, size[0] / height]).view(1, 2, 1, 1)
    corners = None if mode == "nearest" else False
    return functional.interpolate(flow.float(), size=size, mode=mode, align_corners=corners) * ratios.to(flow.device)


def sampled(values: Float[Tensor, "g c h w"], flow: Flow) -> Float[Tensor, "g c h w"]:
    """Values at ``p + flow(p)``, bilinear; beyond the border the border's."""
    height, width = flow.shape[-2:]
    x = (torch.arange(width, device=flow.device) + flow[:, 0]) * (2 / max(width - 1, 1)) - 1
    y = (torch.arange(height, device=flow.device)[:, None] + flow[:, 1]) * (2 / max(height - 1, 1)) - 1
    grid = torch.stack([x, y], dim=-1)
    return functional.grid_sample(values.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def occluded(flow: Flow, back: Flow, *, threshold_pixels: float = 1.5) -> Bool[Tensor, "g h w"]:
    """Where a pixel is lost on its way: following ``flow`` and coming back misses it by more than the threshold.

    Both flows belong to the same pairs, in opposite directions. Pixels that leave the picture are lost too.
    """
    missed = (flow + sampled(back, flow)).square().sum(dim=1).sqrt() > threshold_pixels
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    return missed | ~inside


def _matcher() -> Any:
    matcher = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM)
    matcher.setFinestScale(0)
    matcher.setVariationalRefinementIterations(20)
    matcher.setVariationalRefinementAlpha(40.0)  # smoother than the preset: flat regions follow their borders
    return matcher


def _grey(frames: Frames, size: tuple[int, int]) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Luma of the frames at this size, as OpenCV takes it."""
    luma = _luma(frames.float().cpu())
    if luma.shape[-2:] != size and len(luma):
        luma = functional.interpolate(luma[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return [(picture * 255).round().clamp(0, 255).to(torch.uint8).numpy() for picture in luma]


def _luma(frames: Frames) -> Float[Tensor, "f h w"]:
    weights = torch.tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)
    return (frames * weights).sum(dim=1)
