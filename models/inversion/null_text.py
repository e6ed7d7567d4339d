"""Null-text optimisation: fit the empty prompt's embedding so that guided sampling retraces the inversion.

arXiv:2211.09794, algorithm 1. One embedding for every timestep, shared by all frames of a clip (Video-P2P,
vid2vid-zero) or one for each frame. It needs as many inversion as sampling steps and the same guidance scale in both.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from models.context import Context
from models.guidance import cfg
from models.inversion.ddim import untracked
from models.params import Params as BaseParams
from models.params import param
from models.schedules import ddim
from models.types import Embeds, Latents, Trajectory

VERSION = 1

DECAY_STEPS = 100
"""The learning rate falls linearly to zero over this many timesteps, however many there are."""
GRADIENT_SCALE = 4096.0
"""Keeps gradients within the range of half-precision networks; a power of two, so that float32 is not changed."""
LOOSER = 2e-5
"""How much the loss that is good enough grows from one timestep to the next."""


class Params(BaseParams):
    """Inversion that guided sampling can retrace; steps and guidance are therefore fixed here, not when editing."""

    source_prompt: str = param("", stage="invert", widget="prompt", max_length=2000)
    """What the source clip shows."""
    num_inference_steps: int = param(50, ge=1, le=1000, stage="invert", widget="slider")
    """Steps of the inversion and of denoising."""
    guidance_scale: float = param(7.5, ge=1, le=50, stage="invert", widget="slider")
    """How strongly the prompts pull, also while the null text is optimised."""
    null_text_inner_steps: int = param(10, ge=0, le=500, stage="invert", advanced=True)
    """Optimiser updates at each timestep; 0 leaves null-text optimisation out."""
    null_text_learning_rate: float = param(1e-2, gt=0, le=1, stage="invert", advanced=True)
    """Learning rate at the first timestep."""
    null_text_early_stop: float = param(1e-5, ge=0, le=1, stage="invert", advanced=True)
    """Loss that is good enough at the first timestep."""


def fit(
    ctx: Context,
    p: Params,
    denoise: cfg.Denoise,
    schedule: ddim.Schedule,
    latents: Float[Tensor, "n b c f h w"],
    source: Embeds,
    null: Embeds,
) -> "Optimised":
    """`optimise` as the parameters say, one embedding for the whole clip, with progress and cancellation."""
    return optimise(
        denoise,
        schedule,
        latents,
        source,
        null,
        p.guidance_scale,
        inner_steps=p.null_text_inner_steps,
        learning_rate=p.null_text_learning_rate,
        early_stop=p.null_text_early_stop,
        track=lambda timesteps, state: ctx.steps(timesteps, state, "null text"),
    )


@dataclass(frozen=True)
class Optimised:
    """Null embeddings (``n b k d``, noisiest first), and the loss before each update of every timestep."""

    null_embeds: Float[Tensor, "n b k d"]
    losses: tuple[tuple[float, ...], ...]


@dataclass
class Fitting:
    """The state between two timesteps: where the guided source is, its null text, and results so far."""

    latents: Latents
    null: Embeds
    embeds: list[Embeds]
    losses: list[tuple[float, ...]]


def optimise(
    denoise: cfg.Denoise,
    schedule: ddim.Schedule,
    latents: Float[Tensor, "n b c f h w"],
    source: Embeds,
    null: Embeds,
    guidance_scale: float,
    *,
    inner_steps: int = 10,
    learning_rate: float = 1e-2,
    early_stop: float = 1e-5,
    per_frame: bool = False,
    track: Callable[[Iterable[tuple[int, int]], object], Iterator[tuple[int, int]]] = untracked,
) -> Optimised:
    """Fit one null embedding for each timestep of an inverted trajectory (``latents[0]`` clean, ``target_t``).

    ``source`` and ``null`` are ``1 k d``. With ``per_frame`` frames are batch items, each with its own embedding
    (``b`` of the result is the number of frames), and the network sees one frame at a time. A timestep costs one
    evaluation of the source prompt, one for each update, and one for the step with the result.
    """
    if per_frame:
        latents = rearrange(latents, "n 1 c f h w -> n f c 1 h w")
    source, null = (repeat(text, "1 k d -> b k d", b=latents.shape[1]) for text in (source, null))
    n = len(latents) - 1
    stride, state = schedule.stride(n), Fitting(latents[-1], null, [], [])
    for i, t in track(list(enumerate(schedule.timesteps(n))), state):
        with torch.no_grad():
            conditional = denoise(state.latents, t, source)

        def onward(null: Tensor, z: Tensor = state.latents, t: int = t, conditional: Tensor = conditional) -> Tensor:
            output = cfg.combine(denoise(z, t, null), conditional, guidance_scale)
            return ddim.step(schedule, output, z, level=t, to=t - stride)

        rate = learning_rate * (1 - i / max(DECAY_STEPS, n))
        fitted, history = _fit(onward, state.null, latents[n - 1 - i], inner_steps, rate, early_stop + i * LOOSER)
        state.null = fitted
        state.embeds.append(fitted)
        state.losses.append(history)
        with torch.no_grad():
            state.latents = onward(fitted)
    return Optimised(torch.stack(state.embeds), tuple(state.losses))


def _fit(
    onward: Callable[[Tensor], Latents], null: Embeds, target: Latents, updates: int, rate: float, enough: float
) -> tuple[Embeds, tuple[float, ...]]:
    """Move the embedding so that the step lands on the target; stop after the update whose loss was good enough."""
    # a copy that autograd may own: cached stages and inference-mode tensors must not be touched
    moving = null.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([moving], lr=rate)
    history: list[float] = []
    for _ in range(updates):
        with torch.enable_grad():
            error = (onward(moving) - target).square().flatten(1).mean(dim=1)  # b: items do not share an embedding
            optimiser.zero_grad()
            (error.sum() * GRADIENT_SCALE).backward()
        _unscale(moving)
        optimiser.step()
        history.append(error.max().item())
        if history[-1] < enough:
            break
    return moving.detach(), tuple(history)


def _unscale(tensor: Tensor) -> None:
    if tensor.grad is not None:
        tensor.grad /= GRADIENT_SCALE


def optimised(trajectory: Trajectory, t: int, index: int, *, legacy: bool) -> Embeds | None:
    """The frames' optimised null texts nearest to this timestep; as published, those of step `index`."""
    if trajectory.null_embeds is None:
        return None
    if legacy:
        return trajectory.null_embeds[index] if index < len(trajectory.null_embeds) else None
    nearest: Embeds = trajectory.null_embeds[int((trajectory.timesteps.flip(0) - t).abs().argmin())]
    return nearest
