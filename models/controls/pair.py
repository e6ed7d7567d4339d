"""Source and edit denoised in one batch, so that the edit can look at the source in every layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.controls.follow import Follower
from models.guidance import cfg
from models.types import Latents

VERSION = 1


@dataclass
class Following:
    """The state of a loop whose edit (``1 c f h w``) follows a source that needs no denoising (see `models.resume`)."""

    latents: Latents
    control: Follower


@dataclass
class Beside:
    """The state of a loop that denoises source and edit, ``1 c f h w`` each."""

    source: Latents
    latents: Latents
    control: Follower


def denoise(
    network: cfg.Denoise,
    follower: Follower,
    source: tuple[Latents, cfg.Branches],
    edit: tuple[Latents, cfg.Branches],
    t: int,
    guidance_scale: float,
) -> tuple[Latents, Latents]:
    """Guided predictions of source and edit, each latents (``1 c f h w``) with its text.

    The batch is ``[source unconditional, edit unconditional, source, edit]`` without those that have no text: a branch
    without unconditional text is not guided. The follower is told how many there are.
    """
    halves = [(latents, text.unconditional) for latents, text in (source, edit)]
    halves += [(latents, text.conditional) for latents, text in (source, edit)]
    present = [(latents, text) for latents, text in halves if text is not None]
    follower.branches, follower.source = len(present), len(present) - 2
    batch, texts = (torch.cat(parts) for parts in zip(*present, strict=True))
    outputs = list(network(batch, t, texts).chunk(len(present)))
    guided = [outputs.pop(0) if text.unconditional is not None else None for _, text in (source, edit)]
    return _combine(guided[0], outputs[0], guidance_scale), _combine(guided[1], outputs[1], guidance_scale)


def _combine(unconditional: Tensor | None, conditional: Tensor, guidance_scale: float) -> Tensor:
    return conditional if unconditional is None else cfg.combine(unconditional, conditional, guidance_scale)
