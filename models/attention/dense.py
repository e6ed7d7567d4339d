"""Dense attention: every token looks at all tokens of all frames."""

from einops import rearrange

from models.attention.installed import Policy


def dense(frames: int) -> Policy:
    """The policy for clips of this many frames: queries, keys and values ``(b f) n d`` -> ``b (f n) d``."""
    return lambda query, key, value: (
        rearrange(query, "(b f) n d -> b (f n) d", f=frames),
        rearrange(key, "(b f) n d -> b (f n) d", f=frames),
        rearrange(value, "(b f) n d -> b (f n) d", f=frames),
    )
