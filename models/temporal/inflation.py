"""Inflate an image UNet to clips: attention across frames, temporal layers, statistics over the clip. arXiv:2212.11565.

The inflated network is a clone that shares the image network's weights (none is copied) and owns only what it adds; the
image network is never touched. It takes frames folded into the batch, ``(b f) c h w``, as the image network does, and
its layers are named as in the checkpoints of Tune-A-Video (``….transformer_blocks.0.attn_temp.to_q.weight``).
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn


def inflate(
    unet: nn.Module,
    frames: int,
    *,
    attention: Callable[..., Tensor] | None = None,
    norm_over_frames: bool = True,
    temporal: bool = True,
    generator: torch.Generator | None = None,
    legacy_bias: bool = False,
) -> Any:
    """Clone a UNet for clips of ``frames`` frames, sharing its weights.

    ``attention`` is the processor of its self-attention. ``norm_over_frames`` lets the ResNets' and the last GroupNorm
    take their statistics over the clip instead of each frame; the one at the entry of a transformer stays per frame.
    ``temporal`` adds attention over frames after every feed-forward: queries, keys and values drawn from ``generator``,
    output projection zero, so that it changes nothing yet. With ``legacy_bias`` the output bias is random, as in the
    official code.
    """
    memo = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    clone = copy.deepcopy(unet, memo)
    for module in list(clone.modules()):
        if isinstance(module, BasicTransformerBlock):
            if attention is not None:
                module.attn1.set_processor(attention)
            if temporal:
                add_temporal_attention(module, frames, generator, legacy_bias=legacy_bias)
        elif norm_over_frames and isinstance(module, ResnetBlock2D):
            module.norm1 = ClipGroupNorm(module.norm1, frames)
            module.norm2 = ClipGroupNorm(module.norm2, frames)
        elif norm_over_frames and isinstance(module, UNet2DConditionModel):
            module.conv_norm_out = ClipGroupNorm(module.conv_norm_out, frames)
    return clone


class ClipGroupNorm(nn.Module):
    """A GroupNorm (its weights shared) whose statistics run over all frames of a clip: ``(b f) c h w``."""

    def __init__(self, norm: nn.GroupNorm, frames: int) -> None:
        """Take over the weights of ``norm``."""
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.eps, self.frames = norm.num_groups, norm.eps, frames

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        clip = rearrange(x, "(b f) c h w -> b c f h w", f=self.frames)
        normed = F.group_norm(clip, self.groups, self.weight, self.bias, self.eps)
        return rearrange(normed, "b c f h w -> (b f) c h w")


def add_temporal_attention(
    block: nn.Module, frames: int, generator: torch.Generator | None, *, legacy_bias: bool = False
) -> None:
    """Add ``norm_temp`` and ``attn_temp`` to a transformer block: after the feed-forward, each place over all frames.

    ``h + attn_temp(norm_temp(h))`` on tokens folded to ``(b n) f d``, with as many heads as the block's self-attention
    and no mask.
    """
    attn: Any = block.attn1
    like = attn.to_q.weight
    with torch.device("meta"):  # the layers' own initialisation would draw from the global generator
        attn_temp = Attention(attn.query_dim, heads=attn.heads, dim_head=attn.inner_dim // attn.heads)
        norm_temp = nn.LayerNorm(attn.query_dim)
    for name, layer in (("norm_temp", norm_temp), ("attn_temp", attn_temp)):
        block.add_module(name, layer.to_empty(device=like.device).to(like.dtype).eval().requires_grad_(False))
    nn.init.ones_(norm_temp.weight)
    nn.init.zeros_(norm_temp.bias)
    _initialise(attn_temp, generator, legacy_bias)
    block.register_forward_hook(temporal_attention(frames))


def temporal_attention(frames: int) -> Callable[[Any, Any, Tensor], Tensor]:
    """The forward hook of a block that has ``norm_temp`` and ``attn_temp``."""

    def extend(block: Any, _: Any, output: Tensor) -> Tensor:
        places = rearrange(output, "(b f) n d -> (b n) f d", f=frames)
        change = block.attn_temp(block.norm_temp(places))
        extended: Tensor = output + rearrange(change, "(b n) f d -> (b f) n d", n=output.shape[1])
        return extended

    return extend


@torch.no_grad()
def _initialise(attn: Any, generator: torch.Generator | None, legacy_bias: bool) -> None:
    """Linear layers as PyTorch does (uniform, ``1/sqrt(fan in)``), drawn on the CPU; the output projection zero."""
    out = attn.to_out[0]
    bound = 1 / math.sqrt(out.in_features)
    for layer in (attn.to_q, attn.to_k, attn.to_v):
        layer.weight.copy_(_uniform(layer.weight, 1 / math.sqrt(layer.in_features), generator))
    nn.init.zeros_(out.weight)
    out.bias.copy_(_uniform(out.bias, bound if legacy_bias else 0.0, generator))


def _uniform(like: Tensor, bound: float, generator: torch.Generator | None) -> Tensor:
    return (torch.rand(like.shape, generator=generator) * 2 - 1) * bound


def own(network: nn.Module, weights: Mapping[str, Tensor], *, trainable: bool = False) -> list[nn.Parameter]:
    """Give a clone its own copy of the named parameters with these values, and return them.

    Trainable copies are float32 whatever the network's dtype; the others have the dtype of those they replace. The
    network that was cloned keeps its own. Raises KeyError for a name the clone does not have.
    """
    present = dict(network.named_parameters())
    owned = []
    for name, value in weights.items():
        old = present[name]
        parent, _, leaf = name.rpartition(".")
        copied = value.detach().to(old.device, torch.float32 if trainable else old.dtype, copy=True)
        parameter = nn.Parameter(copied, requires_grad=trainable)
        network.get_submodule(parent).register_parameter(leaf, parameter)
        owned.append(parameter)
    return owned


def added(network: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """The weights a clone does not share with the network it was cloned from, float32 on the CPU."""
    shared = {id(parameter) for parameter in base.parameters()}
    return {
        name: parameter.detach().float().cpu()
        for name, parameter in network.named_parameters()
        if id(parameter) not in shared
    }
