"""Carry the features of edited key frames to all frames, along the nearest neighbours of the source's tokens.

arXiv:2307.10373, sec. 4.2. For every source token of a frame the most similar source token of a key frame is found;
what self-attention put out there, in each branch, is what it puts out here. Between two key frames both are blended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from models.attention.installed import Choice, finish, is_self_attention, project
from models.attention.keyframes import extended

SIMILARITIES = 2**25
"""Similarities held at a time (float32: 128 MiB)."""


@dataclass(frozen=True)
class Neighbours:
    """For each of ``f`` frames two key frames, by their place in the list of key frames, and how much the first counts.

    A weight of 1 means that the second is not looked at.
    """

    first: Int[Tensor, " f"]
    second: Int[Tensor, " f"]
    weight: Float[Tensor, " f"]

    def part(self, frames: slice) -> "Neighbours":
        """Those of some of the frames."""
        return Neighbours(self.first[frames], self.second[frames], self.weight[frames])


def two_sided(frames: int, positions: Sequence[int], stride: int) -> Neighbours:
    """The key frames before and after each frame, weighted by nearness: a key frame takes all from itself.

    ``positions`` are the key frames' places, ascending; how they were chosen (``stride``) does not matter. Frames
    before the first or after the last have one neighbour.
    """
    first, second, weight = [], [], []
    for frame in range(frames):
        after = next((k for k, position in enumerate(positions) if position >= frame), len(positions) - 1)
        before = after if positions[after] <= frame else max(after - 1, 0)
        gap = positions[after] - positions[before]
        first.append(before)
        second.append(after)
        weight.append((positions[after] - frame) / gap if gap > 0 else 1.0)
    return Neighbours(torch.tensor(first), torch.tensor(second), torch.tensor(weight))


def one_sided(frames: int, positions: Sequence[int], stride: int) -> Neighbours:
    """The official code's rule: the key frame of the frame's own chunk of ``stride`` and that of the chunk before.

    The first weighs ``sigmoid(d2 / (d1 + d2))``, d the distances to the chunks' middles, wherever the key frames
    (``positions``) really are: about 0.62 to 0.73. The first chunk has one neighbour.
    """
    frame = torch.arange(frames)
    chunk = frame // stride
    middle = chunk * stride + stride // 2
    own, other = (frame - middle).abs(), (frame - middle + stride).abs()
    weight = torch.sigmoid(other / (own + other))
    return Neighbours(chunk, (chunk - 1).clamp(min=0), torch.where(chunk == 0, 1.0, weight))


NEIGHBOURS = {"two_sided": two_sided, "one_sided": one_sided}


def nearest(tokens: Float[Tensor, "f n d"], keys: Float[Tensor, "f m d"]) -> Int[Tensor, "f n"]:
    """For each token of each frame the index of the most cosine-similar token of its key frame; ties take the first."""
    directions = F.normalize(keys.to(_wide(keys)), dim=-1).transpose(1, 2)
    tokens = tokens.to(_wide(tokens))  # a token's own length does not change which key is most similar
    rows = max(1, SIMILARITIES // (keys.shape[0] * keys.shape[1]))
    return torch.cat([torch.bmm(part, directions).argmax(dim=-1) for part in tokens.split(rows, dim=1)], dim=1)


def carry(
    tokens: Float[Tensor, "f n d"],
    key_tokens: Float[Tensor, "k n d"],
    outputs: Float[Tensor, "b k n e"],
    neighbours: Neighbours,
) -> Float[Tensor, "b f n e"]:
    """The outputs of the key frames, gathered for every token of every frame and blended.

    ``tokens`` and ``key_tokens`` are the source's; the same correspondence serves all branches of ``outputs``.
    """
    carried = _gather(tokens, key_tokens, outputs, neighbours.first)
    between = neighbours.weight < 1
    if between.any():
        weight = neighbours.weight[between].to(outputs)[:, None, None]
        other = _gather(tokens[between], key_tokens, outputs, neighbours.second[between])
        carried[:, between] = weight * carried[:, between] + (1 - weight) * other
    return carried


def _gather(tokens: Tensor, key_tokens: Tensor, outputs: Tensor, key: Tensor) -> Tensor:
    found = nearest(tokens, key_tokens[key])  # f n
    return outputs[:, key.to(found.device)[:, None], found]  # b f n e


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@dataclass
class Pass:
    """What a network call holds, branch-major: each branch ``keys`` key frames, then frames.

    ``keys`` may be 0 once the key frames of this step have been through; ``neighbours`` belong to the frames.
    """

    branches: int
    keys: int
    neighbours: Neighbours


def propagated(call: Pass) -> Choice:
    """Choose propagated self-attention for a UNet; ``call`` is read at every network call and may change between."""
    return lambda name: PropagatedAttention(call) if is_self_attention(name) else None


class PropagatedAttention:
    """Self-attention of one layer: computed for the key frames, carried to the frames. Good for one denoising step."""

    def __init__(self, call: Pass) -> None:
        """Read the layout of a network call from ``call``."""
        self.call = call
        self.key_tokens: Tensor = torch.empty(0)
        self.outputs: Tensor = torch.empty(0)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer's output for normalised tokens ``(b (k + f)) n d``."""
        branches, count = self.call.branches, self.call.keys
        tokens = rearrange(hidden_states, "(b f) n d -> b f n d", b=branches)
        done = []
        if count:
            keys = rearrange(tokens[:, :count], "b k n d -> (b k) n d")
            attended = finish(attn, extended(*project(attn, keys), attn.heads, branches))
            self.key_tokens = tokens[0, :count]
            self.outputs = rearrange(attended, "(b k) n d -> b k n d", b=branches)
            done.append(self.outputs)
        if tokens.shape[1] > count:
            done.append(carry(tokens[0, count:], self.key_tokens, self.outputs, self.call.neighbours))
        return torch.cat(done, dim=1).flatten(0, 1)
