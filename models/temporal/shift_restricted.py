"""Attention over frames that does not shift what the image network expects. arXiv:2305.17431 (EI²), sec. 3.2.

Between self-attention and cross-attention of every transformer: ``h + out(attention over frames(center(h)))``. Centring
takes the mean off and, unlike LayerNorm, leaves the deviation as it is. The output projection is held to a norm of at
most 1, so that it cannot enlarge the variance; it is zero at the start.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from einops import rearrange
from torch import Tensor, nn

Axis = Literal["channel", "frame"]
Norm = Literal["spectral", "row", "none"]

POWER_STEPS = 16


class ShiftRestrictedAttention(nn.Module):
    """Attention over the frames of every place, ``(b n) f d`` -> ``(b n) f d``."""

    def __init__(self, width: int, heads: int, axis: Axis, norm: Norm) -> None:
        """Build for tokens of this width."""
        super().__init__()
        self.heads, self.axis, self.norm = heads, axis, norm
        for name in ("to_q", "to_k", "to_v"):
            self.add_module(name, nn.Linear(width, width, bias=False))
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the tokens."""
        centred = centre(x, self.axis)
        query, key, value = (
            rearrange(layer(centred), "b f (h d) -> b h f d", h=self.heads)
            for layer in (self.get_submodule(name) for name in ("to_q", "to_k", "to_v"))
        )
        attended = rearrange(F.scaled_dot_product_attention(query, key, value), "b h f d -> b f (h d)")
        change: Tensor = F.linear(attended, restricted(self.to_out.weight, self.norm), self.to_out.bias)
        return change


def centre(x: Tensor, axis: Axis) -> Tensor:
    """Tokens ``b f d`` without their mean over channels, or over frames; the deviation stays."""
    return x - x.mean(dim=-1 if axis == "channel" else -2, keepdim=True)


def restricted(weight: Tensor, norm: Norm) -> Tensor:
    """A matrix scaled down to a largest singular value of 1, or to rows of length 1 at most; smaller ones stay."""
    if norm == "none":
        return weight
    if norm == "row":
        size: Tensor = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    else:
        size = largest_singular_value(weight)
    return weight / size.clamp(min=1)


def largest_singular_value(weight: Tensor) -> Tensor:
    """By power iteration from the row of the largest norm; gradients flow through the matrix, not the iteration."""
    with torch.no_grad():
        right = F.normalize(weight[weight.norm(dim=1).argmax()], dim=0)
        for _ in range(POWER_STEPS):
            left = F.normalize(weight @ right, dim=0)
            right = F.normalize(weight.T @ left, dim=0)
    return left @ weight @ right


def add_stam(
    network: Any, frames: int, generator: torch.Generator, *, axis: Axis = "channel", norm: Norm = "spectral"
) -> None:
    """Add ``stam`` to every transformer block of a clone (see `inflation.inflate`) for clips of so many frames.

    Queries, keys and values are drawn from ``generator``; the output is zero, so that nothing changes yet.
    """
    for block in [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]:
        attn: Any = block.attn1
        with torch.device("meta"):  # the layers' own initialisation would draw from the global generator
            stam = ShiftRestrictedAttention(attn.query_dim, attn.heads, axis, norm)
        like = attn.to_q.weight
        block.add_module("stam", stam.to_empty(device=like.device).to(like.dtype).eval().requires_grad_(False))
        _initialise(stam, generator)
        before: list[Tensor] = []
        block.norm1.register_forward_pre_hook(_remember(before))
        attn.register_forward_hook(_extend(block, before, frames))


@torch.no_grad()
def _initialise(stam: ShiftRestrictedAttention, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(stam.to_out.in_features)
    for name in ("to_q", "to_k", "to_v"):
        weight = stam.get_parameter(f"{name}.weight")
        weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)
    nn.init.zeros_(stam.to_out.weight)
    nn.init.zeros_(stam.to_out.bias)


def _remember(before: list[Tensor]) -> Callable[[Any, Any], None]:
    """Keep what enters the block: self-attention's output is added to it, outside of any module."""

    def see(_: Any, inputs: tuple[Tensor, ...]) -> None:
        before[:] = [inputs[0]]

    return see


def _extend(block: Any, before: list[Tensor], frames: int) -> Callable[[Any, Any, Tensor], Tensor]:
    """Self-attention's output with what STAM adds to the sum of both."""

    def extend(_: Any, inputs: Any, output: Tensor) -> Tensor:
        places = rearrange(before.pop() + output, "(b f) n d -> (b n) f d", f=frames)
        change: Tensor = block.stam(places)
        return output + rearrange(change, "(b n) f d -> (b f) n d", n=output.shape[1])

    return extend
