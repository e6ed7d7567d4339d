"""DDIM: timesteps, the deterministic step and its stochastic form. arXiv:2010.02502.

A *level* is an index into ``alphas_cumprod``: how noisy a latent is. A level below 0 is the end of the schedule,
``final_alpha_cumprod``. The table is float32 and the arithmetic is never below float32, whatever the network's dtype.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from models.schedules import estimates

Prediction = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: the variance-preserving table and the rules read from a checkpoint's scheduler config.

    ``alphas_cumprod`` has one entry per training timestep. ``final_alpha_cumprod`` is 1 where the config sets alpha to
    one, else the table's first entry (Stable Diffusion).
    """

    alphas_cumprod: Float[Tensor, " t"]
    final_alpha_cumprod: Float[Tensor, ""]
    prediction: Prediction = "epsilon"
    spacing: Spacing = "leading"
    steps_offset: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, spacing: Spacing = "leading") -> "Schedule":
        """Build from a diffusers scheduler config.

        ``spacing`` is not taken from the config: newer checkpoints carry other defaults, while every method that
        inverts assumes ``leading``. Raises ValueError for an unknown beta schedule or prediction type.
        """
        alphas_cumprod = torch.cumprod(1.0 - _betas(config), dim=0)
        if config.get("rescale_betas_zero_snr", False):
            alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"unknown prediction_type {prediction!r}")
        final = torch.tensor(1.0) if config.get("set_alpha_to_one", True) else alphas_cumprod[0]
        return cls(alphas_cumprod, final, prediction, spacing, int(config.get("steps_offset", 0)))

    @property
    def num_train_timesteps(self) -> int:
        """Length of the table."""
        return len(self.alphas_cumprod)

    def alpha(self, level: int) -> Tensor:
        """Cumulative alpha of a level (0-d float32, on the CPU so that it multiplies tensors of any device)."""
        return self.alphas_cumprod[level] if level >= 0 else self.final_alpha_cumprod

    def stride(self, num_steps: int) -> int:
        """Levels between two neighbouring timesteps of a run with this many steps."""
        if not 1 <= num_steps <= self.num_train_timesteps:
            raise ValueError(f"num_steps must lie in 1..{self.num_train_timesteps}, not {num_steps}")
        return self.num_train_timesteps // num_steps

    def timesteps(self, num_steps: int) -> list[int]:
        """The timesteps of a sampling run, noisiest first: 981, 961 … 1 for 50 steps of Stable Diffusion."""
        stride, total = self.stride(num_steps), self.num_train_timesteps
        if self.spacing == "leading":
            return [min(i * stride + self.steps_offset, total - 1) for i in reversed(range(num_steps))]
        if self.spacing == "trailing":
            return [round(total - i * total / num_steps) - 1 for i in range(num_steps)]
        return [round(float(t)) for t in torch.linspace(total - 1, 0, num_steps, dtype=torch.float64)]


def split(schedule: Schedule, output: Tensor, latents: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Read a network output as ``(x0, eps)`` for latents at this level (DDIM eq. 9; v-prediction: arXiv:2202.00512).

    Any shape; both results have the latents' shape and at least float32.
    """
    latents, output = _widen(latents), _widen(output)
    alpha = schedule.alpha(level)
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    if schedule.prediction == "epsilon":
        return (latents - noise * output) / signal, output
    if schedule.prediction == "v_prediction":
        return signal * latents - noise * output, signal * output + noise * latents
    return output, (latents - signal * output) / noise


def step(
    schedule: Schedule,
    output: Tensor,
    latents: Tensor,
    *,
    level: int,
    to: int,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move latents from one level to another along the network's output (DDIM eq. 12).

    Works in both directions: towards noise it is the exact inverse of the step back with the same output. ``eta`` > 0
    adds the stochastic part (only towards clean), drawn on the CPU from ``generator``. Any shape; float32 or wider.
    """
    x0, eps = split(schedule, output, latents, level)
    estimates.tell(x0)
    alpha, alpha_to = schedule.alpha(level), schedule.alpha(to)
    if eta == 0.0:
        return alpha_to.sqrt() * x0 + (1 - alpha_to).sqrt() * eps
    variance = (1 - alpha_to) / (1 - alpha) * (1 - alpha / alpha_to)
    sigma = eta * variance.clamp(min=0).sqrt()
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    return alpha_to.sqrt() * x0 + (1 - alpha_to - sigma**2).clamp(min=0).sqrt() * eps + sigma * noise


def add_noise(schedule: Schedule, x0: Tensor, noise: Tensor, level: int) -> Tensor:
    """Diffuse clean latents to a level with the given noise (any shape, float32 or wider)."""
    alpha = schedule.alpha(level)
    return alpha.sqrt() * _widen(x0) + (1 - alpha).sqrt() * _widen(noise)


def target(schedule: Schedule, x0: Tensor, noise: Tensor, level: int) -> Tensor:
    """What the network should output for ``add_noise(x0, noise, level)``: the training target."""
    if schedule.prediction == "epsilon":
        return _widen(noise)
    if schedule.prediction == "sample":
        return _widen(x0)
    alpha = schedule.alpha(level)
    return alpha.sqrt() * _widen(noise) - (1 - alpha).sqrt() * _widen(x0)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _betas(config: Mapping[str, Any]) -> Tensor:
    """The noise added per training timestep, float32 throughout as the checkpoints were trained with."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float32)
    kind, total = config.get("beta_schedule", "linear"), int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    if kind == "linear":
        return torch.linspace(start, end, total, dtype=torch.float32)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, total, dtype=torch.float32) ** 2
    if kind == "squaredcos_cap_v2":
        bars = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
        return torch.tensor([min(1 - after / before, 0.999) for before, after in pairwise(bars)])
    raise ValueError(f"unknown beta_schedule {kind!r}")


def _zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale the signal so that the last level is pure noise (arXiv:2305.08891, algorithm 1)."""
    signal = alphas_cumprod.sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    return ((signal - last) * first / (first - last)) ** 2
