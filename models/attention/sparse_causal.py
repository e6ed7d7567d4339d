"""Sparse-causal attention: every frame looks at the first frame and at the one before. arXiv:2212.11565, sec. 3.2."""

from einops import rearrange
from torch import Tensor, arange, cat

from models.attention.installed import Policy


def sparse_causal(frames: int) -> Policy:
    """The policy for clips of this many frames: keys and values ``[first; previous]``, ``(b f) n d`` -> ``(b f) 2n d``.

    The first frame sees itself twice, which leaves its softmax unchanged.
    """
    previous = (arange(frames) - 1).clamp(min=0)

    def seen(tokens: Tensor) -> Tensor:
        clip = rearrange(tokens, "(b f) n d -> b f n d", f=frames)
        both = cat([clip[:, :1].expand_as(clip), clip[:, previous]], dim=2)  # b f 2n d
        return both.flatten(0, 1)

    return lambda query, key, value: (query, seen(key), seen(value))
