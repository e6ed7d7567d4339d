"""Flow coding: pixels that flow connects share one number, and a clip is projected to be the same where numbers are.

arXiv:2308.10079, sec. 3.2. The projection is the closest clip (least squares) in which every point of the scene has one
colour in all frames.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.conditions.optical_flow import Flow
from models.types import Frames

VERSION = 1


@dataclass(frozen=True)
class Coding:
    """For every pixel of a clip the number of the point it shows, and how many pixels show each point."""

    ids: Int[Tensor, "f h w"]
    counts: Int[Tensor, " u"]


def encode(flow: Flow, lost: Bool[Tensor, "g h w"], *, backward: bool = True) -> Coding:
    """Number the points of a clip, one frame after the other.

    ``backward`` starts at the last frame: ``flow`` is the forward flow, and pixels of frame i are ``lost`` where frame
    i + 1 does not show them. Otherwise the first frame is the start and flow is the backward flow (of frame i + 1).
    A pixel takes the number of the pixel it moves to (rounded half to even); lost ones and those that leave the picture
    get a fresh one. Several pixels may take the same number.
    """
    pairs, _, height, width = flow.shape
    order = range(pairs - 1, -1, -1) if backward else range(pairs)
    coded = [torch.arange(height * width).view(height, width)]
    fresh = height * width
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    for pair in order:
        moves = flow[pair].cpu()
        row, column = (rows + moves[1]).round().long(), (columns + moves[0]).round().long()
        new = (row < 0) | (row >= height) | (column < 0) | (column >= width) | lost[pair].cpu()
        ids = coded[-1][row.clamp(0, height - 1), column.clamp(0, width - 1)]
        ids[new] = fresh + torch.arange(int(new.sum()))
        fresh += int(new.sum())
        coded.append(ids)
    ids = torch.stack(coded[::-1] if backward else coded)
    return Coding(ids, torch.bincount(ids.flatten()))


def project(coding: Coding, frames: Frames) -> Frames:
    """The mean colour of each point in all its pixels, in float32 or wider: idempotent.

    Frames of another size than the coding's are resized to it and back (bilinear), which blurs.
    """
    size, grid = frames.shape[-2:], coding.ids.shape[-2:]
    wide = frames.to(torch.promote_types(frames.dtype, torch.float32))
    if size != grid:
        wide = functional.interpolate(wide, size=grid, mode="bilinear", align_corners=False)
    ids, counts = coding.ids.to(wide.device), coding.counts.to(wide.device)
    colours = wide.movedim(1, -1).flatten(0, 2)  # (f h w) c
    sums = wide.new_zeros(len(counts), colours.shape[1]).index_add_(0, ids.flatten(), colours)
    means: Float[Tensor, "u c"] = sums / counts.clamp(min=1)[:, None]
    projected = means[ids].movedim(-1, 1)
    if size != grid:
        projected = functional.interpolate(projected, size=size, mode="bilinear", align_corners=False)
    return projected.to(frames.dtype)
