"""Attention to chosen frames: the first (Video-P2P, arXiv:2303.04761), the middle one (FateZero, arXiv:2303.09535) …"""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from models.attention.installed import Policy

Frame = Literal["first", "mid", "last"] | int
"""A frame by name, or relative to the one that looks: -1 the one before, 0 itself, 1 the one after."""


def frame_index(frames: int, chosen: Sequence[Frame]) -> Policy:
    """The policy for clips of this many frames: keys and values of the chosen frames, ``(b f) n d`` -> ``(b f) kn d``.

    Relative frames beyond an end of the clip are the frame at that end. Without any, frames look at themselves.
    """
    if not chosen:
        return lambda query, key, value: (query, key, value)
    seen = [_frames(frame, frames) for frame in chosen]

    def gather(tokens: Tensor) -> Tensor:
        clip = rearrange(tokens, "(b f) n d -> b f n d", f=frames)
        return torch.cat([clip[:, index] for index in seen], dim=2).flatten(0, 1)

    return lambda query, key, value: (query, gather(key), gather(value))


def _frames(frame: Frame, frames: int) -> list[int]:
    """Which frame each frame sees."""
    named = {"first": 0, "mid": (frames - 1) // 2, "last": frames - 1}
    if isinstance(frame, str):
        return [named[frame]] * frames
    return [min(max(i + frame, 0), frames - 1) for i in range(frames)]
