"""Classifier-free guidance. arXiv:2207.12598.

Both branches go through the network in one call, ordered unconditional, conditional; with a guidance scale of 1 the
unconditional branch would cancel out and is not computed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.backbones.backbone import Backbone
from models.params import Params as BaseParams
from models.params import param
from models.types import Embeds, Latents

Denoise = Callable[[Tensor, int, Tensor], Tensor]
"""A network as the loops see it: latents ``b c f h w``, timestep, text ``b n d`` -> output ``b c f h w``."""


FRAMES_AT_ONCE = 40
"""Frames of a long clip in one call, where they do not look at each other."""


class Params(BaseParams):
    """What to make, how strongly, and with which noise."""

    prompt: str = param(..., stage="edit", widget="prompt", max_length=2000)
    """What the edited clip shows."""
    negative_prompt: str = param("", stage="edit", widget="prompt", max_length=2000)
    """What it should not show."""
    guidance_scale: float = param(7.5, ge=1, le=50, stage="edit", widget="slider")
    """How strongly the prompt pulls; 1 turns guidance off and halves the cost."""
    num_inference_steps: int = param(50, ge=1, le=1000, stage="edit", widget="slider")
    """Denoising steps."""
    seed: int = param(0, ge=0, le=2**63 - 1, stage="edit")
    """Same seed, same video."""


class Branches(NamedTuple):
    """Text of the two branches, ``b n d`` each; without guidance there is no unconditional one."""

    unconditional: Embeds | None
    conditional: Embeds


def encode(backbone: Backbone, prompt: str, negative_prompt: str = "", guidance_scale: float = 7.5) -> Branches:
    """Encode the texts of both branches in one call; skip the negative prompt when guidance is off."""
    if guidance_scale == 1:
        return Branches(None, backbone.encode_text([prompt]))
    unconditional, conditional = backbone.encode_text([negative_prompt, prompt]).chunk(2)
    return Branches(unconditional, conditional)


def guided(denoise: Denoise, latents: Latents, t: int, text: Branches, guidance_scale: float) -> Latents:
    """One guided prediction: ``eps_u + g (eps_c - eps_u)``, both branches in one network call."""
    if text.unconditional is None or guidance_scale == 1:
        return denoise(latents, t, text.conditional)
    output = denoise(torch.cat([latents, latents]), t, torch.cat([text.unconditional, text.conditional]))
    unconditional, conditional = output.chunk(2)
    return combine(unconditional, conditional, guidance_scale)


def in_parts(denoise: Denoise, frames: int = FRAMES_AT_ONCE) -> Denoise:
    """The same network on so many frames at a time, for one that looks at each frame by itself: bounded memory."""

    def split(latents: Tensor, t: int, text: Tensor) -> Tensor:
        return torch.cat([denoise(part, t, text) for part in latents.split(frames, dim=2)], dim=2)

    return split


def combine(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Extrapolate from the unconditional to the conditional prediction (eq. 6), in float32 or wider."""
    wide = torch.promote_types(conditional.dtype, torch.float32)
    unconditional, conditional = unconditional.to(wide), conditional.to(wide)
    return unconditional + guidance_scale * (conditional - unconditional)
