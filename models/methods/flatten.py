"""FLATTEN: attention along the trajectories of optical flow. arXiv:2310.05922 (ICLR 2024).

FLATTEN: Optical Flow-guided Attention for Consistent Text-to-Video Editing.

How it works:
1. Optical flow links the tokens of neighbouring frames to trajectories; every token lies in exactly one.
2. Self-attention looks at all frames; on the finest grid what it puts out then attends along trajectories.
3. DDIM inversion with that network and, by default, the empty prompt.
4. In the first steps of sampling, queries, keys and residual features of the decoder are those the source has at the
   same timestep. GroupNorm takes its statistics over the clip.

Differs from the paper or its code:
- Flow is OpenCV's DIS or RAFT (`flow_estimator`), of the frames themselves, not of a re-encoded file; `check_flow`
  ends trajectories where forward and backward flow disagree. Any size and aspect; the finest grid is the latents'.
- The source's features are not stored (22 GB for 15 frames at 512 pixels): its latents go through the network again
  beside the edit. The inversion runs one branch; the code runs two that are equal.
- Convention `target_t` as diffusers' inverse scheduler has today; the code ran `current_t` (`inversion_convention`) and
  started sampling from latents one level too noisy (`legacy_start_level`).
- Where no trajectory is as long as the clip the code also looks at neighbours in the frame (`legacy_window`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.attention.installed import Choice, installed
from models.attention.trajectory import Table, along_trajectories
from models.backbones import sd
from models.conditions import flow_estimator, optical_flow
from models.context import Context
from models.features import taps
from models.guidance import cfg
from models.inversion import ddim
from models.method import Method, Paper, ladder
from models.params import VideoParams, param
from models.propagation import trajectories
from models.resume import Sampling
from models.schedules.ddim import Schedule, step
from models.temporal import inflation
from models.types import Clip, Embeds, Fitted, Latents, Trajectory

VERSION = 1

QUERY_KEY = {"up_blocks.1": (1, 2), "up_blocks.2": (0, 1, 2), "up_blocks.3": (0,)}
RESIDUAL = {"up_blocks.1": (0, 1), "up_blocks.2": (0,)}


class Flatten(Method):
    """Flow-guided attention and feature injection, without training."""

    paper = Paper(
        arxiv="2310.05922",
        title="FLATTEN: Optical Flow-guided Attention for Consistent Text-to-Video Editing",
        venue="ICLR 2024",
    )
    backbone = sd.V2_1
    adherence = ladder(injection_until=(1.0, 0.2))

    class Params(flow_estimator.Params, ddim.Params, cfg.Params, VideoParams):
        """Flow and trajectories, inversion, guidance, and how much of the source's features is kept."""

        num_inversion_steps: int = param(100, ge=2, le=1000, stage="invert", advanced=True)
        """Steps from clean to noise; more give a better reconstruction."""
        trajectory_levels: int = param(1, ge=0, le=4, stage="invert", advanced=True)
        """On how many grids, finest first, attention follows trajectories; 0 leaves flow out."""
        old_qk: bool = param(False, stage="invert", advanced=True)
        """Along trajectories look with the layer's own queries and keys instead of what dense attention put out."""
        check_flow: bool = param(False, stage="invert", advanced=True)
        """End a trajectory where forward and backward flow disagree."""
        norm_over_frames: bool = param(True, stage="invert", advanced=True)
        """Whether GroupNorm takes its statistics over the clip (as published) or over each frame."""
        flow_seed: int = param(0, ge=0, le=2**62, stage="invert", advanced=True)
        """Draws which trajectory goes on where several meet."""
        legacy_window: bool = param(False, stage="invert", advanced=True)
        """Where trajectories are shorter than the clip, also look at neighbours in the frame, as the official code."""
        guidance_scale: float = param(10.0, ge=1, le=50, stage="edit", widget="slider")
        """How strongly the prompt pulls; 1 turns guidance off. The authors use 10 to 25."""
        injection_until: float = param(0.8, ge=0, le=1, stage="edit", widget="slider")
        """Fraction of denoising during which queries, keys and features are the source's; more keeps more shape."""
        legacy_start_level: bool = param(False, stage="edit", advanced=True)
        """Start from the noisiest inverted latents unchanged, whatever their level, as the official code does."""

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None) -> Trajectory:
        """Invert the clip with the network that edits it, flow-guided attention included."""
        schedule, network = Schedule.from_config(ctx.backbone.scheduler_config), inflate(ctx, p, clip)
        text = cfg.encode(ctx.backbone, p.source_prompt, "", p.inversion_guidance_scale)

        def denoise(latents: Latents, t: int) -> Latents:
            return cfg.guided(predictor(ctx, network), latents, t, text, p.inversion_guidance_scale)

        keep = ddim.grid(schedule, p.num_inversion_steps, p.num_kept_steps, p.inversion_convention)
        count, convention = p.num_inversion_steps, p.inversion_convention
        with installed(network, attention(p, clip, flow_tables(ctx, p, clip))):
            return ddim.walk(denoise, schedule, clip.latents, count, convention, keep=keep, track=ctx.steps)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None, trajectory: Trajectory) -> Latents:
        """Sample from the inverted noise, the source's features injected at first: `1 c f h w`."""
        backbone, network = ctx.backbone, inflate(ctx, p, clip)
        schedule = Schedule.from_config(backbone.scheduler_config)
        stride, lag = schedule.stride(p.num_inference_steps), ddim.lag(schedule, p)
        timesteps = schedule.timesteps(p.num_inference_steps)
        source_text = backbone.encode_text([p.source_prompt])
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        injected, names = int(p.injection_until * len(timesteps)), injected_layers(network)
        noisiest = trajectory.latents[-1]
        state = Sampling(noisiest if p.legacy_start_level else ddim.start(schedule, trajectory, timesteps[0], lag))
        predict = predictor(ctx, network)
        with installed(network, attention(p, clip, flow_tables(ctx, p, clip))):
            for i, t in ctx.steps(list(enumerate(timesteps)), state):
                latents = state.latents
                if i < injected:
                    source = ddim.latents_at(schedule, trajectory, t, lag)
                    output = beside(predict, source, source_text, latents, t, text, p.guidance_scale, network, names)
                else:
                    output = cfg.guided(predict, latents, t, text, p.guidance_scale)
                state.latents = step(schedule, output, latents, level=t, to=t - stride)
        return state.latents


def beside(
    predict: cfg.Denoise,
    source: Latents,
    source_text: Embeds,
    latents: Latents,
    t: int,
    text: cfg.Branches,
    guidance_scale: float,
    network: nn.Module,
    names: list[str],
) -> Latents:
    """One guided prediction; the source is the first branch and puts out the named modules' features for all."""
    texts = [source_text, *(branch for branch in text if branch is not None)]
    branches = torch.cat([source.to(latents), *[latents] * (len(texts) - 1)])
    with taps.shared(network, names, len(texts)):
        output = predict(branches, t, torch.cat(texts))[1:]
    return output if len(output) == 1 else cfg.combine(output[:1], output[1:], guidance_scale)


def injected_layers(network: nn.Module) -> list[str]:
    """The decoder's query and key projections and residual convolutions that take the source's output."""
    present = dict(network.named_modules())
    layers = [f"{b}.attentions.{i}.transformer_blocks.0.attn1" for b, chosen in QUERY_KEY.items() for i in chosen]
    names = [f"{layer}.{projection}" for layer in layers for projection in ("to_q", "to_k")]
    names += [f"{block}.resnets.{i}.conv2" for block, chosen in RESIDUAL.items() for i in chosen]
    return [name for name in names if name in present]


def inflate(ctx: Context, p: Any, clip: Clip) -> Any:
    """The image network for clips of this length."""
    frames = clip.latents.shape[2]
    return inflation.inflate(ctx.backbone.unet, frames, norm_over_frames=p.norm_over_frames, temporal=False)


def predictor(ctx: Context, network: nn.Module) -> cfg.Denoise:
    """Predictions with the inflated network."""

    def predict(latents: Latents, t: int, text: Embeds) -> Latents:
        return ctx.backbone.predict(latents, t, text, unet=network)

    return predict


def flow_tables(ctx: Context, p: Any, clip: Clip) -> Mapping[int, Table]:
    """Who lies on whose trajectory, on the finest grids."""
    if p.trajectory_levels == 0 or len(clip.frames) == 1:
        return {}
    height, width = clip.latents.shape[-2:]
    flow, lost = flow_estimator.forward(ctx, p, clip), None
    if p.check_flow:
        lost = optical_flow.occluded(flow, flow_estimator.backward(ctx, p, clip))
    return trajectories.tables(
        flow, (height, width), p.trajectory_levels, p.flow_seed, lost=lost, legacy_window=p.legacy_window
    )


def attention(p: Any, clip: Clip, tables: Mapping[int, Table]) -> Choice:
    """Self-attention over all frames, and along trajectories where there is a table."""
    return along_trajectories(clip.latents.shape[2], tables, old_qk=p.old_qk)
