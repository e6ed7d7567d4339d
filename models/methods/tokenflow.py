"""TokenFlow: edit key frames together, then carry their features to every frame. arXiv:2307.10373 (ICLR 2024).

TokenFlow: Consistent Diffusion Features for Consistent Video Editing.

How it works:
1. DDIM inversion of every frame with the source prompt, in many small steps; the latents on the way are kept.
2. At every denoising step one key frame is drawn from every `keyframe_stride` frames. Source, unconditional and
   conditional branch run together; in the last two self-attention of all key frames is joint.
3. All other frames compute no self-attention: each source token finds its nearest neighbour in the key frames before
   and after, and takes the edited attention output from there, blended by nearness.
4. Editor `pnp` keeps the layout by giving the source's queries, keys and residual features to the edited branches
   (plug-and-play, arXiv:2211.12572); `sdedit` keeps it by starting late in the schedule (arXiv:2108.01073).

Differs from the paper or its code:
- Key frames on both sides, weighted by distance, as in the paper's text; the code looks at the current and the
  previous one at assumed places (`neighbour_mode="one_sided"`).
- Key frames and frames go through the network in the same call; the code uses one for each. The numbers are the same.
- The last chunk may be short; the code drops the remainder. `strength` 0.9 of 50 steps are 45 steps; the code makes 44.
- Another editor of the paper, a ControlNet, is `control_net` with `sdedit` at `strength` 1, or beside the source's
  features; it steers the edited branches. Checkpoints that take depth as a channel are not served.
"""

from typing import Literal

import torch

from models.attention.installed import installed
from models.backbones import sd
from models.backbones.backbone import Backbone
from models.conditions import controlnet
from models.context import Context
from models.features import plug_and_play, taps
from models.guidance import cfg
from models.inversion import ddim
from models.method import ControlledInput, Method, Paper, ladder
from models.params import VideoParams, param
from models.propagation import nearest_neighbour as nn_field
from models.resume import Sampling
from models.schedules.ddim import Schedule, add_noise, step
from models.types import Clip, Embeds, Fitted, Latents, Trajectory

VERSION = 1


class TokenFlow(Method):
    """Joint editing of key frames and propagation of their features."""

    paper = Paper(
        arxiv="2307.10373",
        title="TokenFlow: Consistent Diffusion Features for Consistent Video Editing",
        venue="ICLR 2024",
    )
    backbone = sd.V2_1
    adherence = ladder(attention_until=(0.9, 0.1), features_until=(1.0, 0.4), strength=(0.5, 1.0))
    Inputs = ControlledInput

    class Params(controlnet.Params, ddim.Params, cfg.Params, VideoParams):
        """Inversion, guidance, key frames, and how the source's layout is kept."""

        num_inversion_steps: int = param(500, ge=2, le=1000, stage="invert", advanced=True)
        """Steps from clean to noise; the source's features are only as good as its inversion."""
        keyframe_stride: int = param(8, ge=1, le=64, stage="edit", unit="frames")
        """One key frame in so many frames; fewer key frames are faster and more alike."""
        keyframe_choice: Literal["random", "middle"] = param("random", stage="edit", advanced=True)
        """Draw the key frame of every chunk anew at every step, or always take the chunk's middle."""
        neighbour_mode: Literal["two_sided", "one_sided"] = param("two_sided", stage="edit", advanced=True)
        """Key frames a frame copies from: the ones before and after (paper), or its chunk's and the previous (code)."""
        editor: Literal["pnp", "sdedit"] = param("pnp", stage="edit")
        """How the layout is kept: by the source's features, or by starting late in the schedule."""
        attention_until: float = param(0.5, ge=0, le=1, stage="edit", widget="slider")
        """pnp: inject the source's queries and keys until this fraction of the steps."""
        features_until: float = param(0.8, ge=0, le=1, stage="edit", widget="slider")
        """pnp: inject the source's residual features until this fraction of the steps."""
        strength: float = param(0.9, gt=0, le=1, stage="edit", widget="slider")
        """sdedit: fraction of the schedule that is denoised again."""
        use_inversion_noise: bool = param(True, stage="edit", advanced=True)
        """sdedit: start from the noise found by the inversion; off, from one random noise for all frames."""
        frames_per_pass: int = param(16, ge=1, le=1024, stage="edit", unit="frames", advanced=True)
        """Frames in one network call, beside the key frames; only memory and speed depend on it."""

    invert = ddim.invert

    def edit(self, ctx: Context, p: Params, clip: Clip, fitted: Fitted | None, trajectory: Trajectory) -> Latents:
        """Edit all frames under the target prompt: `1 c f h w`."""
        backbone = ctx.backbone
        schedule = Schedule.from_config(backbone.scheduler_config)
        stride, lag = schedule.stride(p.num_inference_steps), ddim.lag(schedule, p)
        timesteps = schedule.timesteps(p.num_inference_steps)
        if p.editor == "sdedit":
            timesteps = timesteps[len(timesteps) - max(1, round(p.strength * len(timesteps))) :]
        text = backbone.encode_text([p.source_prompt, p.negative_prompt, p.prompt])
        text = text if p.guidance_scale != 1 else text[[0, 2]]
        generator, control = ctx.generator(p.seed), controlnet.found(ctx, p, clip, timesteps, unsteered=1)
        state = Sampling(initial(p, schedule, trajectory, timesteps[0], generator), generator)
        frames = state.latents.shape[2]
        for i, t in ctx.steps(list(enumerate(timesteps)), state):
            keys = choose_keyframes(frames, p.keyframe_stride, p.keyframe_choice, generator)
            near = nn_field.NEIGHBOURS[p.neighbour_mode](frames, keys, p.keyframe_stride)
            source = ddim.latents_at(schedule, trajectory, t, lag)
            with taps.shared(backbone.unet, source_layers(p, backbone.unet, i, len(timesteps)), len(text)):
                output = predict_jointly(
                    backbone, source, state.latents, t, text, keys, near, p.guidance_scale, p.frames_per_pass, control
                )
            state.latents = step(schedule, output, state.latents, level=t, to=t - stride)
        return state.latents


def predict_jointly(
    backbone: Backbone,
    source: Latents,
    latents: Latents,
    t: int,
    text: Embeds,
    keys: list[int],
    near: nn_field.Neighbours,
    guidance_scale: float,
    frames_per_pass: int,
    control: controlnet.Control = controlnet.OFF,
) -> Latents:
    """One guided prediction for all frames: key frames edited jointly, the others from their features.

    `source` and `latents` are `1 c f h w`; `text` holds the source's, the negative (absent without guidance) and the
    target's embedding; `keys` are the key frames' places in the clip and `near` refers to their order.
    """
    branches = torch.cat([source.to(latents), *[latents] * (len(text) - 1)])  # (source, uncond, cond) c f h w
    call = nn_field.Pass(len(text), len(keys), near)
    outputs = []
    with installed(backbone.unet, nn_field.propagated(call)):
        for begin in range(0, latents.shape[2], frames_per_pass):
            part = slice(begin, begin + frames_per_pass)
            call.keys, call.neighbours = len(keys) if begin == 0 else 0, near.part(part)
            held = [*keys[: call.keys], *range(*part.indices(latents.shape[2]))]
            output = backbone.predict(branches[:, :, held], t, text, control=control.of(held))
            outputs.append(output[1:, :, call.keys :])
    output = torch.cat(outputs, dim=2)
    if len(output) == 1:
        return output
    unconditional, conditional = output.chunk(2)
    return cfg.combine(unconditional, conditional, guidance_scale)


def choose_keyframes(frames: int, stride: int, choice: str, generator: torch.Generator) -> list[int]:
    """One frame of every chunk of `stride` frames, ascending; the last chunk may be short."""
    chunks = [range(begin, min(begin + stride, frames)) for begin in range(0, frames, stride)]
    if choice == "middle":
        return [chunk[len(chunk) // 2] for chunk in chunks]
    return [chunk[int(torch.randint(len(chunk), (), generator=generator))] for chunk in chunks]


def source_layers(p: TokenFlow.Params, unet: torch.nn.Module, index: int, steps: int) -> list[str]:
    """The modules whose output all branches take from the source at this step of so many (none for sdedit)."""
    names: list[str] = []
    if p.editor == "pnp" and index < int(p.attention_until * steps):
        names += plug_and_play.query_key_layers(unet)
    if p.editor == "pnp" and index < int(p.features_until * steps):
        names += plug_and_play.residual_layers(unet)
    return names


def initial(
    p: TokenFlow.Params, schedule: Schedule, trajectory: Trajectory, t: int, generator: torch.Generator
) -> Latents:
    """Where sampling starts: the clip with the noise of its inversion at timestep `t`, or with one random noise."""
    if p.editor == "pnp" or p.use_inversion_noise:
        return ddim.start(schedule, trajectory, t, ddim.lag(schedule, p))
    clean = trajectory.latents[0]
    noise = torch.randn(clean[:, :, :1].shape, generator=generator).to(clean)
    return add_noise(schedule, clean, noise.expand_as(clean), t)
