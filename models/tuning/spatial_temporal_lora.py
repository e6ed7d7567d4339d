"""Two sets of low-rank weights: spatial ones learn what things look like, temporal ones how they move.

MotionDirector, arXiv:2310.08465, sec. 3.3. A spatial set belongs to one clip and learns from single frames; the
temporal set is shared by all clips and learns from whole clips, while the clip's spatial set takes the looks off it.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.context import Context
from models.guidance import cfg
from models.params import param
from models.schedules import ddim
from models.schedules.ddim import Schedule
from models.tuning import lora, one_shot, paths
from models.types import Embeds, Fitted, Latents

VERSION = 1

SPATIAL = re.compile(r"\.attentions\.\d+\.transformer_blocks\.\d+\.(attn1|ff)\.")
"""Self-attention and feed-forward of transformers over places; not attention to the text."""
TEMPORAL = re.compile(
    r"(^transformer_in|\.temp_attentions\.\d+)\.transformer_blocks\.\d+\.(attn1|attn2|ff)\.|\.attn_temp\."
)
"""The same of transformers over frames, whose attentions both look at frames; in an inflated network ``attn_temp``."""


class Params(one_shot.Params):
    """How long, how fast, and what the two sets learn."""

    num_tuning_steps: int = param(150, ge=1, le=20_000, stage="fit", unit="steps")
    """Gradient steps: 50 to 150 for one clip, 300 to 500 for several."""
    learning_rate: float = param(5e-4, gt=0, le=1, stage="fit", advanced=True)
    """Step size of AdamW for both sets, constant."""
    lora_rank: int = param(32, ge=1, le=512, stage="fit", advanced=True)
    """Rank of the weights, at most a layer's width."""
    lora_dropout: float = param(0.1, ge=0, lt=1, stage="fit", advanced=True)
    """Share of what the weights add that is dropped while tuning."""
    spatial_skip_probability: float = param(0.2, ge=0, le=1, stage="fit", advanced=True)
    """How often a step leaves the spatial set out, so that motion is also learned without it."""
    debias: float = param(1.0, ge=0, le=10, stage="fit", advanced=True)
    """How much of an anchor frame is subtracted in the second temporal loss; 0 makes it the plain loss again."""


@dataclass(frozen=True)
class Example:
    """A clip to learn from: latents ``1 c f h w``, its text ``1 n d``, and the network over so many frames."""

    latents: Latents
    text: Embeds
    network: Any


def spatial_layers(network: nn.Module) -> list[str]:
    """Paths of the linear layers that get spatial weights, in the network's order."""
    return lora.targets(network, lambda name: SPATIAL.search(name) is not None)


def temporal_layers(network: nn.Module) -> list[str]:
    """Paths of the linear layers that get temporal weights, in the network's order."""
    return lora.targets(network, lambda name: TEMPORAL.search(name) is not None)


def create(network: nn.Module, names: Sequence[str], rank: int, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """New weights for these layers (see `lora.create`), of no higher rank than a layer has."""
    weights: dict[str, nn.Parameter] = {}
    for name in names:
        layer: Any = network.get_submodule(name)
        weights |= lora.create(network, [name], min(rank, layer.in_features, layer.out_features), generator)
    return weights


@contextmanager
def tuned(network: nn.Module, weights: Mapping[str, Tensor], dropout: float = 0.0) -> Iterator[None]:
    """Within the block the weights are applied as while tuning: what they add is dropped with this probability."""
    with ExitStack() as stack:
        for name in dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in weights):
            down, up = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
            hook = network.get_submodule(name).register_forward_hook(_dropped(down, up, dropout))
            stack.callback(hook.remove)
        yield


def _dropped(down: Tensor, up: Tensor, dropout: float) -> Callable[[Any, Any, Tensor], Tensor]:
    def add(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0] if torch.is_autocast_enabled(output.device.type) else inputs[0].to(down.dtype)
        return output + F.dropout(F.linear(F.linear(x, down), up), dropout).to(output.dtype)

    return add


def debiased(x: Tensor, anchor: int, beta: float) -> Tensor:
    """``sqrt(beta² + 1) x_i - beta x_anchor`` for every frame of ``b c f h w``: less of what frames share (eq. 6)."""
    return math.sqrt(beta**2 + 1) * x - beta * x[:, :, anchor : anchor + 1]


def temporal_loss(
    predict: cfg.Denoise,
    schedule: Schedule,
    latents: Latents,
    text: Embeds,
    t: int,
    noise: Latents,
    *,
    anchor: int,
    beta: float,
) -> Tensor:
    """Squared error of one prediction for the clip, plus the same of both with the anchor frame subtracted (eq. 7)."""
    wanted = ddim.target(schedule, latents, noise, t)
    output = predict(ddim.add_noise(schedule, latents, noise, t), t, text).to(wanted.dtype)
    return F.mse_loss(output, wanted) + F.mse_loss(debiased(output, anchor, beta), debiased(wanted, anchor, beta))


def spatial_loss(
    predict: cfg.Denoise, schedule: Schedule, latents: Latents, text: Embeds, t: int, noise: Latents, *, frame: int
) -> Tensor:
    """Squared error of one prediction for one frame of the clip, a clip of its own (eq. 4)."""
    alone = slice(frame, frame + 1)
    return one_shot.denoising_loss(predict, schedule, latents[:, :, alone], text, t, noise[:, :, alone])


def tune(ctx: Context, p: Params, examples: Sequence[Example], image_network: Any) -> Fitted:
    """Learn from the clips; the result holds the temporal set and the spatial set of the first clip.

    Losses are the temporal ones. Both losses of a step are taken at the same weights: the temporal step comes first and
    its weights are not in the spatial loss.
    """
    generator, device = ctx.generator(p.fit_seed), ctx.backbone.device
    temporal = create(examples[0].network, temporal_layers(examples[0].network), p.lora_rank, generator)
    spatial = [create(image_network, spatial_layers(image_network), p.lora_rank, generator) for _ in examples]
    for network, example in [(image_network, examples[0]), *((e.network, e) for e in examples)]:
        paths.checkpoint(network, example.latents, p.gradient_checkpointing)
    learners = [Learner(ctx, p, list(weights.values())) for weights in (temporal, *spatial)]
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # for the dropout
        state = Learning(
            [*temporal.values(), *(w for s in spatial for w in s.values())],
            learners,
            generator,
            dropout_generator(device),
            [],
        )
        for _ in ctx.steps(range(p.num_tuning_steps), state):
            chosen = int(torch.randint(len(examples), (), generator=generator))
            step = Step(ctx, p, examples[chosen], generator)
            state.losses.append(learners[0].take(partial(step.temporal, temporal, spatial[chosen])))
            if not step.skip:
                learners[1 + chosen].take(partial(step.spatial, image_network, spatial[chosen]))
    weights = {name: weight.detach() for name, weight in {**temporal, **spatial[0]}.items()}
    return Fitted(weights, torch.stack(state.losses).float().cpu())


def dropout_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout on this device draws from."""
    if device.type == "cpu":
        return torch.default_generator
    generators: Sequence[torch.Generator] = torch.get_device_module(device.type).default_generators
    return generators[device.index or 0]


def load(network: nn.Module, weights: Mapping[str, Tensor], *, temporal_scale: float, spatial_scale: float) -> None:
    """Give a clone over frames what was learned, each set scaled; a spatial scale of 0 leaves the looks behind."""
    looks = {name: weight for name, weight in weights.items() if SPATIAL.search(name) and ".lora_" in name}
    paths.load(network, {name: w for name, w in weights.items() if name not in looks}, scale=temporal_scale)
    if spatial_scale != 0:
        paths.load(network, looks, scale=spatial_scale)


@dataclass
class Learning:
    """The state of the tuning: all weights and their learners, who draws steps, who draws dropout, and the losses."""

    weights: list[nn.Parameter]
    learners: list["Learner"]
    generator: torch.Generator
    dropout: torch.Generator
    losses: list[Tensor]


class Learner:
    """One set of weights and its optimiser."""

    def __init__(self, ctx: Context, p: Params, weights: Sequence[nn.Parameter]) -> None:
        """Begin with these weights."""
        self.device, self.dtype, self.max_grad_norm = ctx.backbone.device.type, ctx.backbone.dtype, p.max_grad_norm
        self.optimiser = torch.optim.AdamW(
            weights,
            lr=p.learning_rate,
            betas=(p.adam_beta1, p.adam_beta2),
            weight_decay=p.adam_weight_decay,
            eps=p.adam_epsilon,
        )
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)

    def state_dict(self) -> dict[str, Any]:
        """How the optimiser and the gradient scaler stand."""
        return {"optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let them stand like this."""
        self.optimiser.load_state_dict(state_dict["optimiser"])
        self.scaler.load_state_dict(state_dict["scaler"])

    def take(self, loss: Callable[[], Tensor]) -> Tensor:
        """One gradient step; the loss before it."""
        with torch.enable_grad(), torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            value = loss()
        one_shot.take_step(self.optimiser, self.scaler, value, self.max_grad_norm)
        return value.detach()


class Step:
    """What one tuning step draws: timestep, noise, frames, and whether it leaves the spatial set out."""

    def __init__(self, ctx: Context, p: Params, example: Example, generator: torch.Generator) -> None:
        """Draw on the CPU."""
        self.backbone, self.p, self.example = ctx.backbone, p, example
        self.schedule = Schedule.from_config(ctx.backbone.scheduler_config)
        frames = example.latents.shape[2]
        self.t = int(torch.randint(self.schedule.num_train_timesteps, (), generator=generator))
        self.noise = torch.randn(example.latents.shape, generator=generator).to(example.latents)
        self.skip = float(torch.rand((), generator=generator)) < p.spatial_skip_probability
        self.frame, self.anchor = (int(torch.randint(frames, (), generator=generator)) for _ in range(2))

    def temporal(self, temporal: Mapping[str, Tensor], spatial: Mapping[str, Tensor]) -> Tensor:
        """The temporal loss; the spatial set, unless left out, is there but does not learn from it."""
        network, clip = self.example.network, self.example
        looks = {} if self.skip else {name: weight.detach() for name, weight in spatial.items()}
        predict = paths.denoiser(self.backbone, network)
        with tuned(network, temporal, self.p.lora_dropout), tuned(network, looks, self.p.lora_dropout):
            return temporal_loss(
                predict, self.schedule, clip.latents, clip.text, self.t, self.noise,
                anchor=self.anchor, beta=self.p.debias,
            )  # fmt: skip

    def spatial(self, network: Any, spatial: Mapping[str, Tensor]) -> Tensor:
        """The spatial loss, layers over frames taken out."""
        predict, clip = paths.denoiser(self.backbone, network), self.example
        with tuned(network, spatial, self.p.lora_dropout):
            return spatial_loss(predict, self.schedule, clip.latents, clip.text, self.t, self.noise, frame=self.frame)
