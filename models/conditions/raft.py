"""Optical flow by RAFT, arXiv:2003.12039, as torchvision has it: the optional extra ``raft``.

The estimator that FLATTEN and Ground-A-Video were published with, slower and finer than the built-in DIS of
`optical_flow`, whose conventions it keeps. torchvision is imported when flow is first asked for, and gets the weights
(C_T_SKHT_V2) from PyTorch's server or from torch's own cache folder.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torch.nn import functional

from models.conditions.optical_flow import Flow, resized
from models.errors import WeightsUnavailable
from models.types import Clip, Frames

VERSION = 1

SMALLEST, MULTIPLE = 128, 8
"""Sides the network can take: at least this long, and a multiple."""
PAIRS_AT_ONCE = 4
ITERATIONS = 12

Network = Callable[..., Sequence[Tensor]]


def forward(clip: Clip) -> Flow:
    """Estimator: flow from every frame but the last to the one after it."""
    return between(clip.frames[:-1], clip.frames[1:], load(clip.latents.device))


def backward(clip: Clip) -> Flow:
    """Estimator: flow from every frame but the first to the one before it."""
    return between(clip.frames[1:], clip.frames[:-1], load(clip.latents.device))


@torch.no_grad()
def between(frames: Frames, others: Frames, network: Network) -> Flow:
    """Flow from each frame (0…1) to the other one of its pair, in pixels; float32 on the CPU."""
    height, width = frames.shape[-2:]
    if not len(frames):
        return torch.zeros(0, 2, height, width)
    size = (_side(height), _side(width))
    flows = [
        network(_prepared(first, size), _prepared(second, size), num_flow_updates=ITERATIONS)[-1].float().cpu()
        for first, second in zip(frames.split(PAIRS_AT_ONCE), others.split(PAIRS_AT_ONCE), strict=True)
    ]
    return resized(torch.cat(flows), (height, width))


def _side(length: int) -> int:
    return max(SMALLEST, MULTIPLE * -(-length // MULTIPLE))


def _prepared(frames: Frames, size: tuple[int, int]) -> Tensor:
    return 2 * functional.interpolate(frames.float(), size=size, mode="bilinear", align_corners=False) - 1


@lru_cache(maxsize=2)
def load(device: torch.device) -> Network:
    """The network with torchvision's weights. Raises WeightsUnavailable when the extra or the weights are missing."""
    try:
        from torchvision.models import optical_flow as published
    except ImportError as error:
        raise WeightsUnavailable(
            "flow_estimator 'raft' needs torchvision, which is not installed",
            hint="install the extra: pip install 'refilm[raft]', or choose flow_estimator 'dis'",
        ) from error
    try:
        network: Any = published.raft_large(weights=published.Raft_Large_Weights.C_T_SKHT_V2, progress=False)
    except (URLError, OSError) as error:
        raise WeightsUnavailable(
            f"the weights of RAFT could not be had: {error}",
            hint="allow download.pytorch.org, put the file into torch's cache folder, or choose flow_estimator 'dis'",
        ) from error
    network = network.eval().requires_grad_(False).to(device)
    return lambda first, second, **options: network(first.to(device), second.to(device), **options)
