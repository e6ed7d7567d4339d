"""Guided DDIM sampling, for methods that change nothing between its steps. arXiv:2010.02502, arXiv:2207.12598."""

from collections.abc import Sequence

import torch

from models.context import Context
from models.guidance import cfg
from models.resume import Sampling
from models.schedules.ddim import Schedule, step
from models.types import Latents


def sample(
    ctx: Context,
    p: cfg.Params,
    predict: cfg.Denoise,
    schedule: Schedule,
    timesteps: Sequence[int],
    latents: Latents,
    text: cfg.Branches,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Latents:
    """Denoise ``b c f h w`` from the first of the timesteps to clean; ``generator`` draws what ``eta`` > 0 adds."""
    stride, state = schedule.stride(p.num_inference_steps), Sampling(latents, generator)
    for t in ctx.steps(timesteps, state):
        output = cfg.guided(predict, state.latents, t, text, p.guidance_scale)
        state.latents = step(schedule, output, state.latents, level=t, to=t - stride, eta=eta, generator=generator)
    return state.latents
