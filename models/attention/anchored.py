"""Bi-directional cross-frame attention: every frame looks at the middle one and at its neighbour towards it.

arXiv:2305.18264, sec. 4.2.
"""

from einops import rearrange
from torch import Tensor, arange, cat

from models.attention.installed import Policy

VERSION = 1


def anchored(frames: int) -> Policy:
    """The policy for so many frames: keys and values ``[middle; neighbour]``, ``(b f) n d`` -> ``(b f) 2n d``.

    The middle is frame ``frames // 2``; it sees itself twice, which leaves its softmax unchanged.
    """
    middle = frames // 2
    index = arange(frames)
    neighbour = index + (index < middle).long() - (index > middle).long()

    def seen(tokens: Tensor) -> Tensor:
        clip = rearrange(tokens, "(b f) n d -> b f n d", f=frames)
        both = cat([clip[:, middle : middle + 1].expand_as(clip), clip[:, neighbour]], dim=2)  # b f 2n d
        return both.flatten(0, 1)

    return lambda query, key, value: (query, seen(key), seen(value))
