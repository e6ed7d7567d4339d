"""Many texts at once through the family's network: DDIM sampling and inversion, one text per batch item."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from models.backbones import sd
from models.guidance import cfg
from models.inversion import ddim as inversion
from models.schedules import ddim

AT_ONCE = 32
"""Pictures denoised in one call."""


@torch.no_grad()
def generate(
    backbone: sd.Backbone, noise: Float[Tensor, "b c f h w"], texts: Sequence[str], guidance: float, steps: int
) -> Float[Tensor, "n 3 H W"]:
    """Deterministic DDIM sampling from `noise`, one text per batch item; frames of item 0 first (n = b f)."""
    schedule = ddim.Schedule.from_config(backbone.scheduler_config)
    stride, frames = schedule.stride(steps), []
    size = max(1, AT_ONCE // noise.shape[2])
    for start in range(0, len(noise), size):
        latents, chosen = noise[start : start + size], list(texts[start : start + size])
        text = branches(backbone, chosen, guidance)
        for t in schedule.timesteps(steps):
            output = cfg.guided(backbone.predict, latents, t, text, guidance)
            latents = ddim.step(schedule, output, latents, level=t, to=t - stride)
        frames.append(backbone.decode_latents(rearrange(latents, "b c f h w -> 1 c (b f) h w")))
    return torch.cat(frames)


def branches(backbone: sd.Backbone, texts: Sequence[str], guidance: float) -> cfg.Branches:
    """The texts and, where guidance is on, as many empty ones."""
    empty = None if guidance == 1 else backbone.encode_text([""] * len(texts))
    return cfg.Branches(empty, backbone.encode_text(texts))


@torch.no_grad()
def invert(
    backbone: sd.Backbone, latents: Float[Tensor, "b c f h w"], texts: Sequence[str], steps: int
) -> Float[Tensor, "b c f h w"]:
    """DDIM inversion at guidance 1, one source text per batch item; the noisiest latents."""
    schedule = ddim.Schedule.from_config(backbone.scheduler_config)
    size, ends = max(1, AT_ONCE // latents.shape[2]), []
    for start in range(0, len(latents), size):
        embeds = backbone.encode_text(list(texts[start : start + size]))

        def denoise(noisy: Tensor, t: int, embeds: Tensor = embeds) -> Tensor:
            return backbone.predict(noisy, t, embeds)

        ends.append(inversion.walk(denoise, schedule, latents[start : start + size], steps, keep=()).latents[-1])
    return torch.cat(ends)
