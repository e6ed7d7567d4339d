"""Grounded attention of a clip: visual tokens, objects and null texts of all frames. arXiv:2310.01107, sec. 3.2."""

from models.attention.dense import dense
from models.attention.installed import Choice, RoutedAttention, is_cross_attention, is_self_attention

VERSION = 1


def across_frames(frames: int, *, modulated: bool) -> Choice:
    """Self-attention and gated layers (where there are any) look at all frames.

    With ``modulated`` cross-attention reads the texts of all frames too: the unconditional branch, once frames have
    their own null texts. With one text for all frames it would change nothing.
    """
    processor = RoutedAttention(dense(frames))

    def choose(name: str) -> RoutedAttention | None:
        joint = is_self_attention(name) or name.endswith("fuser.attn") or (modulated and is_cross_attention(name))
        return processor if joint else None

    return choose
