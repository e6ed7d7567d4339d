"""The two ways a clip goes through a network: over frames, and each frame alone.

A video checkpoint has layers over frames and they are taken out for the second way. An image checkpoint has none, and
gets them for the first: attention looks at the first and the previous frame, attention over frames is added
(arXiv:2212.11565), GroupNorm looks at one frame at a time. Everything is a clone that shares the checkpoint's weights.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.attention.installed import RoutedAttention
from models.attention.sparse_causal import sparse_causal
from models.guidance import cfg
from models.temporal import bypass, inflation
from models.tuning import lora, one_shot
from models.types import Latents

VERSION = 1


def over_frames(unet: nn.Module, frames: int, generator: torch.Generator) -> Any:
    """A clone for clips of this many frames; new layers are drawn from ``generator`` and change nothing yet."""
    if bypass.sees_frames(unet):
        return inflation.inflate(unet, frames, temporal=False, norm_over_frames=False)
    attention = RoutedAttention(sparse_causal(frames))
    return inflation.inflate(unet, frames, attention=attention, norm_over_frames=False, generator=generator)


def each_frame(unet: nn.Module, keep: Collection[str] = ()) -> Any:
    """A clone that sees each frame by itself; ``keep`` names layers over frames that stay."""
    return bypass.without_frames(unet, keep)


def denoiser(backbone: Any, network: nn.Module) -> cfg.Denoise:
    """Predictions of the backbone with this network."""

    def predict(latents: Latents, t: int, text: Tensor) -> Latents:
        output: Latents = backbone.predict(latents, t, text, unet=network)
        return output

    return predict


def load(network: nn.Module, weights: Mapping[str, Tensor], *, scale: float = 1.0) -> None:
    """Give a clone stored weights: whole ones as they are, low-rank ones (see `lora`) merged into its own."""
    low_rank = {name: weight for name, weight in weights.items() if ".lora_" in name}
    inflation.own(network, {name: weight for name, weight in weights.items() if name not in low_rank})
    inflation.own(network, lora.merged(network, low_rank, scale=scale))


def checkpoint(network: Any, latents: Latents, wanted: bool | None) -> None:
    """`one_shot.checkpoint` for networks that can; diffusers' UNet3D cannot."""
    if network._supports_gradient_checkpointing:
        one_shot.checkpoint(network, latents, wanted)
