"""DDIM inversion: walk the deterministic sampler backwards, from clean latents to noise. arXiv:2105.05233, sec. F.

Two conventions exist and give different latents:

- ``target_t``: latents at level ``t - D`` are moved to level ``t``, and the network is asked at ``t``. With the same
  network output it is the exact inverse of a sampling step.
- ``current_t``: latents at level ``t`` are moved to level ``t + D``, and the network is asked at ``t``. It takes one
  step less.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from models.context import Context
from models.guidance import cfg
from models.params import Params as BaseParams
from models.params import param
from models.schedules import ddim
from models.types import Clip, Fitted, Latents, Trajectory

VERSION = 1

Convention = Literal["target_t", "current_t"]
Item = TypeVar("Item")


class Params(BaseParams):
    """How the source is inverted."""

    source_prompt: str = param("", stage="invert", widget="prompt", max_length=2000)
    """What the source clip shows; the inversion is conditioned on it."""
    num_inversion_steps: int = param(50, ge=2, le=1000, stage="invert", advanced=True)
    """Steps from clean to noise; more give a better reconstruction."""
    num_kept_steps: int = param(50, ge=1, le=1000, stage="invert", advanced=True)
    """Of a finer inversion only this many levels are kept, evenly spaced: those a sampler with as many steps visits."""
    inversion_guidance_scale: float = param(1.0, ge=1, le=50, stage="invert", advanced=True)
    """Guidance while inverting; above 1 the inversion drifts."""
    inversion_convention: Convention = param("target_t", stage="invert", advanced=True)
    """Whether the network is asked at the level it moves to (target_t) or at the one it is at (current_t)."""


def invert(_: object, ctx: Context, p: Params, clip: Clip, fitted: Fitted | None) -> Trajectory:
    """The verb: invert every frame of the clip with the backbone as it is, conditioned on the source prompt."""
    scale = p.inversion_guidance_scale
    text = cfg.encode(ctx.backbone, p.source_prompt, "", scale)
    schedule = ddim.Schedule.from_config(ctx.backbone.scheduler_config)

    predict = cfg.in_parts(ctx.backbone.predict)

    def denoise(latents: Latents, t: int) -> Latents:
        return cfg.guided(predict, latents, t, text, scale)

    keep = grid(schedule, p.num_inversion_steps, p.num_kept_steps, p.inversion_convention)
    return walk(
        denoise, schedule, clip.latents, p.num_inversion_steps, p.inversion_convention, keep=keep, track=ctx.steps
    )


def plan(schedule: ddim.Schedule, num_steps: int, convention: Convention = "target_t") -> list[tuple[int, int, int]]:
    """The steps of an inversion as ``(timestep asked, level before, level after)``, cleanest first."""
    stride = schedule.stride(num_steps)
    ascending = schedule.timesteps(num_steps)[::-1]
    if convention == "target_t":
        return [(t, t - stride, t) for t in ascending]
    return [(t, t, t + stride) for t in ascending[:-1]]


def grid(schedule: ddim.Schedule, num_steps: int, num_kept: int, convention: Convention = "target_t") -> set[int]:
    """The timesteps of an inversion that lie nearest to those of a sampling run with ``num_kept`` steps."""
    asked = [t for t, _, _ in plan(schedule, num_steps, convention)]
    return {min(asked, key=lambda t: abs(t - wanted)) for wanted in schedule.timesteps(num_kept)}


@dataclass
class Walk:
    """The state of an inversion: latents (``b c f h w``), and what was kept on the way, cleanest first."""

    latents: Latents
    kept: list[Latents]
    timesteps: list[int]


def untracked(items: Iterable[Item], state: object) -> Iterator[Item]:
    """The items, nobody told."""
    return iter(items)


@torch.no_grad()
def walk(
    denoise: Callable[[Tensor, int], Tensor],
    schedule: ddim.Schedule,
    latents: Tensor,
    num_steps: int,
    convention: Convention = "target_t",
    *,
    keep: Collection[int] | None = None,
    track: Callable[[Iterable[tuple[int, int, int]], object], Iterator[tuple[int, int, int]]] = untracked,
) -> Trajectory:
    """Invert ``latents`` (``b c f h w``) with ``denoise(latents, t)`` and keep what was passed on the way.

    ``keep`` names the timesteps to keep (all when absent; the last always): 500 steps of a long clip would not fit.
    ``track`` wraps the iteration, for progress, cancellation and going on elsewhere (`Context.steps`).
    """
    latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
    state = Walk(latents, [latents], [])
    steps = plan(schedule, num_steps, convention)
    for t, level, to in track(steps, state):
        state.latents = ddim.step(schedule, denoise(state.latents, t), state.latents, level=level, to=to)
        if keep is None or t in keep or t == steps[-1][0]:
            state.kept.append(state.latents)
            state.timesteps.append(t)
    return Trajectory(torch.stack(state.kept), torch.tensor(state.timesteps))


def lag(schedule: ddim.Schedule, p: Params) -> int:
    """How far the kept latents are above the timestep that was asked for them: 0, or one stride (``current_t``)."""
    return schedule.stride(p.num_inversion_steps) if p.inversion_convention == "current_t" else 0


def start(schedule: ddim.Schedule, trajectory: Trajectory, t: int, lag: int = 0) -> Latents:
    """Latents to start sampling from at timestep ``t``: the noisiest of the trajectory, moved to that level.

    A walk with the sampler's own steps ends at ``t`` and nothing is moved. After a finer or coarser one the noise that
    the noisiest latents have over ``z0`` is kept and its amount changed.
    """
    return _renoised(schedule, trajectory, len(trajectory.timesteps), t, lag)


def latents_at(schedule: ddim.Schedule, trajectory: Trajectory, t: int, lag: int = 0) -> Latents:
    """The source's own latents at timestep ``t``: those kept, or the nearest kept ones moved to that level."""
    distances = (trajectory.timesteps + lag - t).abs()
    return _renoised(schedule, trajectory, int(distances.argmin()) + 1, t, lag)


def _renoised(schedule: ddim.Schedule, trajectory: Trajectory, index: int, t: int, lag: int) -> Latents:
    """``latents[index]`` moved to level ``t`` with the noise it has over ``z0``; untouched when it is there already."""
    latents, clean = trajectory.latents[index], trajectory.latents[0]
    level = int(trajectory.timesteps[index - 1]) + lag
    if level == t:
        return latents
    alpha = schedule.alpha(level)
    noise = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    return ddim.add_noise(schedule, clean, noise, t)
