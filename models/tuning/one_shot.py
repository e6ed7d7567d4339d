"""One-shot tuning: a few weights learn to denoise one clip. arXiv:2212.11565, sec. 3.3."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.context import Context
from models.params import Params as BaseParams
from models.params import param
from models.schedules import ddim
from models.types import Embeds, Latents

VERSION = 1

CHECKPOINT_ABOVE = 16 * 32 * 32
"""Latent places (frames x height x width) above which activations of a tuning step are recomputed by default."""


class Params(BaseParams):
    """How long and how fast the weights learn."""

    num_tuning_steps: int = param(500, ge=1, le=20_000, stage="fit", unit="steps")
    """Gradient steps on the clip; more fit it closer and leave less room for the edit."""
    learning_rate: float = param(3e-5, gt=0, le=1, stage="fit", advanced=True)
    """Step size of AdamW, constant."""
    adam_beta1: float = param(0.9, ge=0, lt=1, stage="fit", advanced=True)
    """Decay of AdamW's first moment."""
    adam_beta2: float = param(0.999, ge=0, lt=1, stage="fit", advanced=True)
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = param(1e-2, ge=0, le=1, stage="fit", advanced=True)
    """Decoupled weight decay of AdamW."""
    adam_epsilon: float = param(1e-8, gt=0, le=1, stage="fit", advanced=True)
    """Added to AdamW's denominator."""
    max_grad_norm: float = param(1.0, gt=0, stage="fit", advanced=True)
    """The gradient is scaled down to this norm."""
    gradient_checkpointing: bool | None = param(None, stage="fit", advanced=True)
    """Recompute activations in the backward pass: less memory, a third more time; left out, only for large clips."""
    fit_seed: int = param(33, ge=0, le=2**63 - 1, stage="fit", advanced=True)
    """Noise and timesteps of the tuning, and the initial weights of added layers."""


def trainable_names(network: nn.Module, suffixes: Sequence[str]) -> list[str]:
    """Names of the parameters of every module whose path ends with one of the suffixes, in the network's order."""
    modules = tuple(name for name, _ in network.named_modules() if name.endswith(tuple(suffixes)))
    return [name for name, _ in network.named_parameters() if name.startswith(tuple(f"{m}." for m in modules))]


def denoising_loss(
    predict: Callable[[Tensor, int, Tensor], Tensor],
    schedule: ddim.Schedule,
    latents: Latents,
    text: Embeds,
    t: int,
    noise: Latents,
) -> Tensor:
    """Mean squared error of one prediction for ``latents`` noised to timestep ``t``, in float32."""
    noisy = ddim.add_noise(schedule, latents, noise, t)
    target = ddim.target(schedule, latents, noise, t)
    return (predict(noisy, t, text).to(target.dtype) - target).square().mean()


def random_denoising_loss(
    predict: Callable[[Tensor, int, Tensor], Tensor],
    schedule: ddim.Schedule,
    latents: Latents,
    text: Embeds,
    generator: torch.Generator,
) -> Tensor:
    """``denoising_loss`` at a uniformly random timestep, with fresh noise, both drawn on the CPU."""
    t = int(torch.randint(schedule.num_train_timesteps, (), generator=generator))
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return denoising_loss(predict, schedule, latents, text, t, noise)


def checkpoint(network: Any, latents: Latents, wanted: bool | None) -> None:
    """Turn gradient checkpointing on for a clone: as wanted, or when the clip has more than CHECKPOINT_ABOVE places."""
    places = latents.numel() // latents.shape[1]
    if places > CHECKPOINT_ABOVE if wanted is None else wanted:
        network.enable_gradient_checkpointing()


@dataclass
class Tuning:
    """The state of a tuning: what learns and how, the generator that ``loss`` draws from, and the losses so far."""

    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    generator: torch.Generator
    losses: list[Tensor]


def optimise(
    ctx: Context,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    p: Params,
    generator: torch.Generator,
) -> Tensor:
    """Minimise ``loss`` over the parameters with AdamW and a clipped gradient; return its value at every step.

    All randomness of ``loss`` must come from ``generator``, so that a tuning that was stopped goes on as it would have.
    Under a half-precision backbone the forward pass is autocast and float16 gradients are scaled; the parameters and
    the loss stay float32.
    """
    dtype, device = ctx.backbone.dtype, ctx.backbone.device.type
    betas = (p.adam_beta1, p.adam_beta2)
    optimiser = torch.optim.AdamW(
        parameters, lr=p.learning_rate, betas=betas, weight_decay=p.adam_weight_decay, eps=p.adam_epsilon
    )
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    state = Tuning(list(parameters), optimiser, scaler, generator, [])
    for _ in ctx.steps(range(p.num_tuning_steps), state):
        with torch.enable_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            value = loss()
        state.losses.append(value.detach())
        take_step(optimiser, scaler, value, p.max_grad_norm)
    return torch.stack(state.losses).float().cpu()


def take_step(
    optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, loss: Tensor, max_grad_norm: float
) -> None:
    """One gradient step: backward, clip, update, forget the gradient."""
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    torch.nn.utils.clip_grad_norm_((p for group in optimiser.param_groups for p in group["params"]), max_grad_norm)
    scaler.step(optimiser)
    scaler.update()
    optimiser.zero_grad(set_to_none=True)
