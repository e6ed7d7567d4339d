"""Tune an inflated clone of the image network on one clip: the fit of Tune-A-Video (arXiv:2212.11565) and its kin."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from models.context import Context
from models.schedules.ddim import Schedule
from models.temporal import inflation
from models.tuning import one_shot
from models.types import Fitted, Latents

VERSION = 1


def tune(
    ctx: Context,
    p: one_shot.Params,
    network: Any,
    latents: Latents,
    source_prompt: str,
    trainable: Sequence[str],
) -> Fitted:
    """Train modules whose path ends with one of ``trainable`` to denoise the clip; keep all the clone does not share.

    ``network`` is a clone made by `inflation.inflate`; noise and timesteps are drawn from the fit's seed.
    """
    backbone, generator = ctx.backbone, ctx.generator(p.fit_seed)
    schedule = Schedule.from_config(backbone.scheduler_config)
    text = backbone.encode_text([source_prompt])
    names = one_shot.trainable_names(network, trainable)
    start = dict(network.named_parameters())
    parameters = inflation.own(network, {name: start[name] for name in names}, trainable=True)
    one_shot.checkpoint(network, latents, p.gradient_checkpointing)

    def predict(noisy: Latents, t: int, text: Tensor) -> Latents:
        return backbone.predict(noisy, t, text, unet=network)

    def loss() -> Tensor:
        return one_shot.random_denoising_loss(predict, schedule, latents, text, generator)

    losses = one_shot.optimise(ctx, parameters, loss, p, generator)
    return Fitted(inflation.added(network, backbone.unet), losses)
