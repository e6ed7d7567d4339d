"""MeDM: an image model edits the frames, optical flow makes them one clip. arXiv:2308.10079 (AAAI 2024).

MeDM: Mediating Image Diffusion Models for Video-to-Video Translation with Temporal Correspondence Guidance.

How it works:
1. Optical flow and occlusion number the points of the scene: pixels of different frames that show the same point have
   the same number.
2. All frames start from the source's latents with the same noise and are denoised by the image network on its own.
3. At every step but the last the predicted clean clip is decoded, every point gets the mean colour of its pixels, and
   the encoded result corrects the predicted noise.

Differs from the paper or its code:
- Flow is OpenCV's DIS or RAFT (`flow_estimator`) with a forward and backward check instead of GMFlow. Each component
  is scaled by its own ratio.
- The layout comes from the source's latents (`strength`); 1 starts from noise alone. The published examples also steer
  with a line-art ControlNet in guess mode: name one (`control_net`, `control_guess`); by default there is none.
- `keep_detail` corrects by what the averaging changes, without the loss of the VAE round trip, at one encoding more.
- Means are taken in float32; the code's are in the network's precision.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch

from models.backbones import sd
from models.backbones.backbone import Backbone
from models.conditions import controlnet, flow_estimator, optical_flow
from models.context import Context
from models.guidance import cfg
from models.method import ControlledInput, Method, Paper, ladder
from models.params import VideoParams, param
from models.propagation import flow_coding
from models.resume import Sampling
from models.schedules.ddim import Schedule, add_noise, split, step, target
from models.types import Clip, Fitted, Latents, Trajectory

VERSION = 1


class Medm(Method):
    """Harmonise predicted clean clips along optical flow."""

    paper = Paper(
        arxiv="2308.10079",
        title="MeDM: Mediating Image Diffusion Models for Video-to-Video Translation with Temporal Correspondence "
        "Guidance",
        venue="AAAI 2024",
    )
    backbone = sd.V1_5
    adherence = ladder(strength=(0.4, 1.0))
    Inputs = ControlledInput

    class Params(controlnet.Params, flow_estimator.Params, cfg.Params, VideoParams):
        """Guidance, how far back into the noise, and how firmly flow holds the frames together."""

        num_inference_steps: int = param(20, ge=1, le=1000, stage="edit", widget="slider")
        """Denoising steps of the whole schedule; `strength` says how many of them are made."""
        strength: float = param(0.8, gt=0, le=1, stage="edit", widget="slider")
        """Fraction of the schedule that is denoised again; 1 starts from noise and forgets the source's layout."""
        harmonisation_scale: float = param(1.0, ge=0, le=1, stage="edit", widget="slider")
        """How much of the correction is applied; 1 gives every point one colour, less keeps more detail."""
        harmonise_until: float = param(1.0, ge=0, le=1, stage="edit", advanced=True)
        """Fraction of the made steps that are corrected; the last one never is."""
        keep_detail: bool = param(False, stage="edit", advanced=True)
        """Leave what the VAE loses out of the correction."""
        base_frame: Literal["last", "first"] = param("last", stage="edit", advanced=True)
        """Where numbering starts: points get their number in this frame first."""
        occlusion_threshold: float = param(1.5, gt=0, le=100, stage="edit", unit="pixels", advanced=True)
        """A point is lost where following flow and coming back misses it by more than this."""
        same_noise: bool = param(True, stage="edit", advanced=True)
        """All frames start with the same noise, or each with its own."""
        condition: controlnet.Condition = param("lineart", stage="edit", advanced=True)
        """What the ControlNet sees, as it was trained: found in the clip (depth by `depth_estimator`), or `given`."""
        frames_per_pass: int = param(16, ge=1, le=1024, stage="edit", unit="frames", advanced=True)
        """Frames in one network call; only memory and speed depend on it."""

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None, trajectory: Trajectory | None) -> Latents:
        """Denoise all frames, harmonised at every step: `1 c f h w`."""
        backbone = ctx.backbone
        schedule = Schedule.from_config(backbone.scheduler_config)
        stride, timesteps = schedule.stride(p.num_inference_steps), schedule.timesteps(p.num_inference_steps)
        timesteps = timesteps[len(timesteps) - max(1, round(p.strength * len(timesteps))) :]
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        coding, control = flow_code(ctx, p, clip), controlnet.found(ctx, p, clip, timesteps)
        predict = controlnet.steered(backbone, control, p.frames_per_pass)
        corrected = min(int(p.harmonise_until * len(timesteps)), len(timesteps) - 1)
        latents = initial(ctx, p, clip, schedule, timesteps[0])

        def mediate(x0: Latents) -> Latents:
            return harmonised(backbone, coding, x0, p.harmonisation_scale, keep_detail=p.keep_detail)

        state = Sampling(latents)
        for i, t in ctx.steps(list(enumerate(timesteps)), state):
            output = cfg.guided(predict, state.latents, t, text, p.guidance_scale)
            output = corrected_output(schedule, output, state.latents, t, mediate) if i < corrected else output
            state.latents = step(schedule, output, state.latents, level=t, to=t - stride)
        return state.latents


def corrected_output(
    schedule: Schedule, output: Latents, latents: Latents, t: int, mediate: Callable[[Latents], Latents]
) -> Latents:
    """What the network would have put out had it predicted `mediate(x0)` for these latents at this level."""
    x0 = mediate(split(schedule, output, latents, t)[0])
    noise = split(replace(schedule, prediction="sample"), x0, latents, t)[1]
    return target(schedule, x0, noise, t)


def harmonised(
    backbone: Backbone, coding: flow_coding.Coding, x0: Latents, scale: float, *, keep_detail: bool = False
) -> Latents:
    """Clean latents moved by `scale` towards those in which every point has one colour: `1 c f h w`."""
    frames = backbone.decode_latents(x0)
    mediated = backbone.encode_frames(flow_coding.project(coding, frames)).to(x0)
    origin = backbone.encode_frames(frames).to(x0) if keep_detail else x0
    return x0 + scale * (mediated - origin)


def flow_code(ctx: Context, p: Any, clip: Clip) -> flow_coding.Coding:
    """The points of the scene, numbered."""
    forward, backward = flow_estimator.forward(ctx, p, clip), flow_estimator.backward(ctx, p, clip)
    flow, back = (forward, backward) if p.base_frame == "last" else (backward, forward)
    lost = optical_flow.occluded(flow, back, threshold_pixels=p.occlusion_threshold)
    return flow_coding.encode(flow, lost, backward=p.base_frame == "last")


def initial(ctx: Context, p: Any, clip: Clip, schedule: Schedule, t: int) -> Latents:
    """The source with noise of level `t`, or noise alone when nothing of the source is to be kept."""
    clean = clip.latents
    shape = clean[:, :, :1].shape if p.same_noise else clean.shape
    noise = torch.randn(shape, generator=ctx.generator(p.seed)).to(clean).expand_as(clean)
    return noise.clone() if p.strength == 1 else add_noise(schedule, clean, noise, t)
