"""Metrics of motion: does the edit move as its source does?

Flows are given, (g 2 h w) with g = f - 1, in pixels of the frames, channel 0 to the right and channel 1 down. The
*backward* flow of pair i lies on frame i + 1 and points to frame i, the *forward* flow the other way round, so
warp(frame i, backward i) is a guess of frame i + 1. Published "warp errors" differ in flow model, occlusion rule and
scale: the keys say whose definition a value follows.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.metrics.pixel import ssim
from models.types import Frames

Flow = Float[Tensor, "g 2 h w"]
FF_ALPHA_LEVELS = 5.0
FF_ALPHA_AREA = 0.7


def warp(frames: Float[Tensor, "g c h w"], flow: Flow, *, padding: str = "border") -> Float[Tensor, "g c h w"]:
    """Sample `frames` at p + flow(p), bilinear; outside, the border is repeated (or "zeros")."""
    height, width = frames.shape[-2:]
    rows = torch.arange(height, dtype=torch.float32, device=frames.device)
    columns = torch.arange(width, dtype=torch.float32, device=frames.device)
    x = (columns + flow[:, 0]) * (2 / max(width - 1, 1)) - 1
    y = (rows[:, None] + flow[:, 1]) * (2 / max(height - 1, 1)) - 1
    grid = torch.stack([x, y], dim=-1)
    return functional.grid_sample(frames.float(), grid, mode="bilinear", padding_mode=padding, align_corners=True)


def valid(backward: Flow, forward: Flow, *, threshold_pixels: float = 1.0) -> Bool[Tensor, "g 1 h w"]:
    """Where the two flows agree: |backward + forward at its end|_1 below the threshold; elsewhere is occluded."""
    return (backward + warp(forward, backward)).abs().sum(1, keepdim=True) < threshold_pixels


def warp_mse(frames: Frames, backward: Flow, visible: Bool[Tensor, "g 1 h w"]) -> float:
    """`refilm.warp_mse`: mean over pairs of the mean over visible pixels and channels of (f' - warp f)^2, 0...1."""
    error = (frames[1:].float() - warp(frames[:-1], backward)).square().mean(1, keepdim=True)
    return float(_visible_mean(error, visible).nanmean())


def warp_ssim(frames: Frames, backward: Flow) -> float:
    """`refilm.warp_ssim`: SSIM of frame i + 1 and frame i warped to it, full picture (RAVE, arXiv:2312.04524)."""
    return float(ssim(frames[1:].float(), warp(frames[:-1], backward)).mean())


def flow_epe(edited: Flow, source: Flow) -> float:
    """`refilm.flow_epe`: mean end-point error in pixels between the flows of edit and source."""
    return float((edited - source).square().sum(1).sqrt().mean())


def ff_alpha(frames: Frames, source: Frames, forward: Flow, *, official: bool = False) -> tuple[float, float]:
    """EditBoard's FF-alpha (arXiv:2409.09668) and the valid share of the picture.

    `forward` is the source's forward flow, used as if it lay on the later frame, as the definition does: sampled at
    p - flow(p). The value is the mean over valid pixels of the largest channel difference, 0...255; valid is where
    the source itself warps within 5 levels. `official` keeps the published rule that a valid share under 70 % scores
    0, which is perfect; `refilm.ff_alpha_fixed` leaves that rule out and reads black outside the picture.
    """
    padding = "border" if official else "zeros"
    luma = torch.tensor((0.299, 0.587, 0.114), device=source.device).view(1, 3, 1, 1)
    grey = (source.float() * luma).sum(1, keepdim=True)
    kept = (grey[1:] - warp(grey[:-1], -forward, padding=padding)).abs() * 255 <= FF_ALPHA_LEVELS
    area = float(kept.float().mean())
    if official and area < FF_ALPHA_AREA:
        return 0.0, area
    error = (frames[1:].float() - warp(frames[:-1], -forward, padding=padding)).abs().amax(1, keepdim=True) * 255
    return float(_visible_mean(error, kept).nanmean()), area


def ff_beta(edited: Flow, source: Flow) -> float:
    """`editboard.ff_beta`: mean over pixels of 1 - cos(flow of the source, flow of the edit) (arXiv:2409.09668)."""
    lengths = edited.square().sum(1).sqrt() * source.square().sum(1).sqrt()
    return float((1 - (edited * source).sum(1) / (lengths + 1e-7)).mean())


def measure(
    frames: Frames,
    source: Frames,
    *,
    backward: Flow,
    visible: Bool[Tensor, "g 1 h w"],
    forward: Flow | None = None,
    edited_backward: Flow | None = None,
    edited_forward: Flow | None = None,
) -> dict[str, float]:
    """The motion metrics of an edit by key, from the source's flows and, where given, the edit's own."""
    report = {
        "refilm.warp_mse": warp_mse(frames, backward, visible),
        "refilm.warp_ssim": warp_ssim(frames, backward),
        "refilm.valid_area": float(visible.float().mean()),
    }
    if forward is not None:
        report["refilm.ff_alpha_fixed"], report["refilm.ff_alpha_area"] = ff_alpha(frames, source, forward)
        report["editboard.ff_alpha"] = ff_alpha(frames, source, forward, official=True)[0]
    if edited_backward is not None:
        report["refilm.flow_epe"] = flow_epe(edited_backward, backward)
    if forward is not None and edited_forward is not None:
        report["editboard.ff_beta"] = ff_beta(edited_forward, forward)
    return report


def _visible_mean(values: Tensor, visible: Tensor) -> Tensor:
    """Mean per pair of values (g 1 h w) over visible pixels; NaN where none is."""
    weight = visible.to(values.dtype)
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
