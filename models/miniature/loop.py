"""What every training run shares: optimiser, average of weights, checkpoints, and the loss curve."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

LOG_STEPS = 50
Network = TypeVar("Network", bound=nn.Module)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz for matrices and convolutions; AdamW for everything else.

    Muon is K. Jordan et al. 2024 (arXiv:2502.16982 gives the scaling used: an update has root-mean-square 0.2,
    so that learning rate and weight decay are those of AdamW). A convolution is the matrix (out, in * k * k).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.01) -> None:
        """Take all parameters of a network; `lr` is AdamW's."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._update(parameter, parameter.grad)
                parameter.add_(update, alpha=-group["lr"])

    def _update(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["first"] = torch.zeros_like(gradient)
        state["step"] += 1
        if _is_matrix(parameter):
            first: Tensor = state["first"].lerp_(gradient, 0.05)
            return orthogonalised(gradient.lerp(first, 0.95))
        second: Tensor = state.setdefault("second", torch.zeros_like(gradient))
        first = state["first"].lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.01)
        corrected = (second / (1 - 0.99 ** state["step"])).sqrt_().add_(1e-8)
        update: Tensor = first / (1 - 0.9 ** state["step"]) / corrected
        return update


def _is_matrix(parameter: Tensor) -> bool:
    flat = parameter.flatten(1) if parameter.ndim > 1 else parameter[None]
    return min(flat.shape) >= 16 and flat.shape[0] < 1024 * 4


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, approximately, times 0.2 sqrt(longer side); any shape (o i ...)."""
    flat = matrix.flatten(1).bfloat16()
    tall = flat.shape[0] > flat.shape[1]
    x = flat.T if tall else flat
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: Tensor = (x.T if tall else x).float() * (0.2 * math.sqrt(max(flat.shape)))
    return result.reshape(matrix.shape)


class Average(Generic[Network]):
    """Exponential moving average of a network's weights; short at first so that early exports are good."""

    def __init__(self, network: Network, decay: float = 0.999) -> None:
        """Copy `network`; `decay` is the weight of the past per step, reached after some hundred steps."""
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards `network` after step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


@dataclass
class Clock:
    """Progress of a run: steps, the minutes trained over all its parts, and the logged losses."""

    step: int = 0
    minutes: float = 0.0
    history: list[tuple[int, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def total_minutes(self) -> float:
        """Minutes trained, those before a resume included."""
        return self.minutes + (time.monotonic() - self.started) / 60

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"step": self.step, "minutes": self.total_minutes(), "history": self.history}


@dataclass(frozen=True)
class Plan:
    """How to run: where, how long, and at which rates."""

    folder: Path
    minutes: float
    label: str
    resume: bool = False
    peak_rate: float = 1e-3
    weight_decay: float = 0.01
    decay_fraction: float = 0.25
    average_decay: float = 0.999
    checkpoint_seconds: float = 180.0
    max_steps: int = 1_000_000_000


def denoiser_plan(folder: Path, minutes: float, resume: bool, peak_rate: float) -> Plan:
    """The plan of trainings that add layers to the image denoiser: rarer checkpoints, a shorter average."""
    label = "weighted noise error"
    return Plan(folder, minutes, label, resume, peak_rate, average_decay=0.998, checkpoint_seconds=300)


class Run(Generic[Network]):
    """One network in training, with everything a checkpoint holds."""

    def __init__(self, network: Network, plan: Plan) -> None:
        """Start from `network`, or from the folder's checkpoint when the plan resumes and there is one."""
        self.network, self.plan, self.clock = network, plan, Clock()
        self.average = Average(network, plan.average_decay)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser = Muon(trained, plan.peak_rate, plan.weight_decay)
        self.path = plan.folder / "checkpoint.pt"
        if plan.resume and self.path.exists():
            self._restore(load(self.path))

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        history = [(int(step), float(loss)) for step, loss in state["clock"]["history"]]
        self.clock = Clock(state["clock"]["step"], state["clock"]["minutes"], history)

    def checkpoint(self) -> None:
        """Write everything needed to go on."""
        state = {"network": self.network.state_dict(), "average": self.average.network.state_dict()}
        save(self.path, {**state, "optimiser": self.optimiser.state_dict(), "clock": self.clock.state()})
        draw_curve(self.clock.history, self.plan.folder / "loss.png", self.plan.label)

    def step(self, batch_loss: Callable[[Network, int], Tensor], fraction_left: float) -> float:
        """One update; `batch_loss(network, step)` draws its data and noise from the step number alone."""
        plan, clock = self.plan, self.clock
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(plan.peak_rate, clock.step, fraction_left, decay=plan.decay_fraction)
        torch.manual_seed(clock.step)
        loss = batch_loss(self.network, clock.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        clock.step += 1
        self.average.update(self.network, clock.step)
        return float(loss.detach())

    def go(self, batch_loss: Callable[[Network, int], Tensor], report: Callable[["Run[Network]"], str]) -> None:
        """Train until the plan's time is over; `report(run)` is called, and its line logged, at each checkpoint."""
        seconds, recent = 60 * self.plan.minutes, list[float]()
        start = saved = time.monotonic()
        while time.monotonic() < start + seconds and self.clock.step < self.plan.max_steps:
            recent.append(self.step(batch_loss, 1 - (time.monotonic() - start) / seconds))
            if len(recent) == LOG_STEPS:
                self.clock.history.append((self.clock.step, sum(recent) / LOG_STEPS))
                self._say(f"loss {self.clock.history[-1][1]:.4f}")
                recent.clear()
            if time.monotonic() > saved + self.plan.checkpoint_seconds:
                self.checkpoint()
                self._say(report(self))
                saved = time.monotonic()
        self.checkpoint()
        self._say(report(self))

    def _say(self, text: str) -> None:
        sys.stdout.write(f"step {self.clock.step} minutes {self.clock.total_minutes():.1f} {text}\n")
        sys.stdout.flush()


def learning_rate(peak: float, step: int, fraction_left: float, warmup: int = 100, decay: float = 0.25) -> float:
    """Linear warm-up, constant, then linear to zero over the last `decay` of the time."""
    return peak * min(1.0, (step + 1) / warmup) * min(1.0, max(fraction_left, 0.0) / decay)


def autocast() -> torch.autocast:
    """Forward passes in bf16 where the processor multiplies it natively; elsewhere bf16 would be far slower."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_native())


def bf16_is_native() -> bool:
    """Whether the processor multiplies bf16 itself."""
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint (tensors, numbers and strings only)."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def draw_curve(history: list[tuple[int, float]], path: Path, label: str) -> None:
    """Write the loss curve as a PNG, and its points beside it as JSON."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([step for step, _ in history], [loss for _, loss in history], linewidth=1)
    axes.set(xlabel="step", ylabel=label, yscale="log")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    path.with_suffix(".json").write_text(json.dumps(history))
