"""Mixed tuning: a network learns a clip both as a clip and as a heap of frames. arXiv:2302.01329, sec. 3.3.

From the clip it learns motion, from the frames what things look like, at a quality that motion does not blur.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.context import Context
from models.params import param
from models.schedules.ddim import Schedule
from models.temporal import inflation
from models.tuning import lora, one_shot, paths
from models.tuning import spatial_temporal_lora as dual
from models.types import Embeds, Fitted, Latents

VERSION = 1


class Params(one_shot.Params):
    """What learns, how long, and from what."""

    num_tuning_steps: int = param(64, ge=1, le=20_000, stage="fit", unit="steps")
    """Gradient steps: 64 to edit a clip, 300 to animate a picture, 500 for a subject from pictures."""
    learning_rate: float = param(5e-4, gt=0, le=1, stage="fit", advanced=True)
    """Step size of AdamW, constant: 5e-4 for low-rank weights, about 6e-6 for all weights."""
    video_loss_share: float = param(0.65, ge=0, le=1, stage="fit", widget="slider")
    """Share of the loss on the clip; the rest is on single frames. 0 for animated pictures and subjects."""
    tuned: Literal["lora", "all"] = param("lora", stage="fit", advanced=True)
    """Low-rank weights in transformers over places and frames learn, or all weights of the network."""
    lora_rank: int = param(32, ge=1, le=512, stage="fit", advanced=True)
    """Rank of the low-rank weights, at most a layer's width."""


@dataclass(frozen=True)
class Seen:
    """Frames to learn from, latents ``1 c f h w``, and the text ``1 n d`` they are denoised under."""

    latents: Latents
    text: Embeds


def tune(ctx: Context, p: Params, clip: Seen, frames: Seen) -> Fitted:
    """Tune on the clip, in its order, and on the frames, each alone; keep everything that is not the checkpoint's."""
    unet, generator = ctx.backbone.unet, ctx.generator(p.fit_seed)
    network = paths.over_frames(unet, clip.latents.shape[2], generator)
    alone = paths.each_frame(unet)
    for one in (network, alone):
        paths.checkpoint(one, clip.latents, p.gradient_checkpointing)
    low_rank = created(network, p, generator) if p.tuned == "lora" else {}
    learning = list(low_rank.values()) or both_learn(network, alone)
    schedule = Schedule.from_config(ctx.backbone.scheduler_config)
    parts = [(network, clip, p.video_loss_share), (alone, frames, 1 - p.video_loss_share)]

    def loss() -> Tensor:
        losses = [
            share * denoising_loss(ctx, one, low_rank, schedule, seen, generator) for one, seen, share in parts if share
        ]
        return torch.stack(losses).sum()

    losses = one_shot.optimise(ctx, learning, loss, p, generator)
    added = inflation.added(network, unet)
    return Fitted({**added, **{name: weight.detach() for name, weight in low_rank.items()}}, losses)


def created(network: nn.Module, p: Params, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """New low-rank weights for transformers over places and over frames."""
    names = dual.spatial_layers(network) + dual.temporal_layers(network)
    return dual.create(network, names, p.lora_rank, generator)


def both_learn(network: nn.Module, alone: nn.Module) -> list[nn.Parameter]:
    """Make all weights of a clone trainable, and those of another the same ones."""
    names = dict(network.named_parameters())
    owned = dict(zip(names, inflation.own(network, names, trainable=True), strict=True))
    for name in dict(alone.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        alone.get_submodule(parent).register_parameter(leaf, owned[name])
    return list(owned.values())


def denoising_loss(
    ctx: Context,
    network: Any,
    low_rank: Mapping[str, Tensor],
    schedule: Schedule,
    seen: Seen,
    generator: torch.Generator,
) -> Tensor:
    """One prediction at a random timestep; low-rank weights of layers the network does not have are left out."""
    layers = dict(network.named_modules())
    present = {name: weight for name, weight in low_rank.items() if name.rsplit(".lora_", 1)[0] in layers}
    predict = paths.denoiser(ctx.backbone, network)
    with lora.applied(network, present):
        return one_shot.random_denoising_loss(predict, schedule, seen.latents, seen.text, generator)
