"""Extended attention over key frames: they are edited as one picture. arXiv:2307.10373, sec. 4.1."""

from einops import rearrange
from torch import Tensor, cat

from models.attention.installed import attend


def extended(query: Tensor, key: Tensor, value: Tensor, heads: int, branches: int) -> Tensor:
    """Attention of key frames ``(b k) n d``, the batch branch-major with the source first.

    A source frame attends to itself. In every other branch all key frames attend to all key frames of that branch.
    """
    frames = len(query) // branches
    source = attend(query[:frames], key[:frames], value[:frames], heads)
    if branches == 1:
        return source
    query, key, value = (rearrange(x[frames:], "(b k) n d -> b (k n) d", k=frames) for x in (query, key, value))
    edited = attend(query, key, value, heads)
    return cat([source, rearrange(edited, "b (k n) d -> (b k) n d", k=frames)])
