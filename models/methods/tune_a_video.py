"""Tune-A-Video: tune an inflated image model on the clip, invert with it, sample with a new prompt. arXiv:2212.11565.

One-Shot Tuning of Image Diffusion Models for Text-to-Video Generation (ICCV 2023).

How it works:
1. Inflate the image UNet: self-attention looks at the first and the previous frame (sparse-causal), attention over
   frames is added after every feed-forward, GroupNorm takes its statistics over the clip.
2. Tune the query projections and the temporal attention to denoise this clip under its own prompt.
3. DDIM inversion with the tuned network, empty prompt, no guidance: noise that carries the clip's motion.
4. DDIM sampling from it with the target prompt and classifier-free guidance.

Differs from the paper or its code:
- A new temporal layer changes nothing until it is tuned. The code leaves its output bias random (`legacy_bias_init`).
- The clip's latents are the mode of the VAE's posterior; the code draws them again for every tuning step.
- Frames keep their aspect ratio; the code squeezes them to a square.
- When inversion and sampling use different numbers of steps, the noise is kept and its amount set for the first step.
"""

from typing import Annotated, Any

import torch
from pydantic import Field

from models.attention.installed import RoutedAttention
from models.attention.sparse_causal import sparse_causal
from models.backbones import sd
from models.context import Context
from models.guidance import cfg
from models.guidance.sampling import sample
from models.inversion import ddim
from models.method import Method, Paper
from models.params import VideoParams, param
from models.schedules.ddim import Schedule
from models.temporal import inflation
from models.tuning import inflated, one_shot
from models.types import Clip, Fitted, Latents, Trajectory

VERSION = 1


class TuneAVideo(Method):
    """One-shot tuning of an inflated image model."""

    paper = Paper(
        arxiv="2212.11565",
        title="Tune-A-Video: One-Shot Tuning of Image Diffusion Models for Text-to-Video Generation",
        venue="ICCV 2023",
    )
    backbone = sd.V1_5

    class Params(one_shot.Params, cfg.Params, VideoParams):
        """Tuning, inversion and guidance."""

        source_prompt: str = param("", stage="fit", widget="prompt", max_length=2000)
        """What the source clip shows; the network is tuned to denoise the clip under it."""
        trainable_modules: tuple[Annotated[str, Field(min_length=1)], ...] = param(
            ("attn1.to_q", "attn2.to_q", "attn_temp"), min_length=1, stage="fit", advanced=True
        )
        """Which modules learn: those whose path ends with one of these."""
        norm_over_frames: bool = param(True, stage="fit", advanced=True)
        """Whether GroupNorm takes its statistics over the clip (as published) or over each frame."""
        legacy_bias_init: bool = param(False, stage="fit", advanced=True)
        """Start the temporal layers with a random output bias, as the official code does."""
        inversion_prompt: str = param("", stage="invert", widget="prompt", max_length=2000, advanced=True)
        """Text the inversion is conditioned on; empty as published."""
        num_inversion_steps: int = param(50, ge=1, le=1000, stage="invert", advanced=True)
        """Steps from clean to noise."""
        use_inverted_latents: bool = param(True, stage="edit", advanced=True)
        """Sample from the inverted noise; off, from random noise: the clip's motion is then only in the weights."""
        guidance_scale: float = param(12.5, ge=1, le=50, stage="edit", widget="slider")
        """How strongly the prompt pulls; 1 turns guidance off and halves the cost."""
        eta: float = param(0.0, ge=0, le=1, stage="edit", advanced=True)
        """Randomness of the sampler: 0 deterministic, 1 as much as DDPM."""

    def fit(self, ctx: Context, p: Params, clip: Clip) -> Fitted:
        """Tune on the clip; the result holds the tuned weights and the added layers."""
        network = self.inflated(ctx, p, clip)
        return inflated.tune(ctx, p, network, clip.latents, p.source_prompt, p.trainable_modules)

    def invert(self, ctx: Context, p: Params, clip: Clip, fitted: Fitted) -> Trajectory:
        """Invert the clip with the tuned network."""
        backbone = ctx.backbone
        schedule = Schedule.from_config(backbone.scheduler_config)
        text = backbone.encode_text([p.inversion_prompt])
        network = self.tuned(ctx, p, clip, fitted)

        def denoise(latents: Latents, t: int) -> Latents:
            return backbone.predict(latents, t, text, unet=network)

        return ddim.walk(denoise, schedule, clip.latents, p.num_inversion_steps, track=ctx.steps)

    def edit(self, ctx: Context, p: Params, clip: Clip, fitted: Fitted, trajectory: Trajectory) -> Latents:
        """Sample with the tuned network under the target prompt: `1 c f h w`."""
        backbone = ctx.backbone
        schedule = Schedule.from_config(backbone.scheduler_config)
        timesteps = schedule.timesteps(p.num_inference_steps)
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        network = self.tuned(ctx, p, clip, fitted)
        generator = ctx.generator(p.seed)

        def predict(latents: Latents, t: int, text: torch.Tensor) -> Latents:
            return backbone.predict(latents, t, text, unet=network)

        if p.use_inverted_latents:
            latents = ddim.start(schedule, trajectory, timesteps[0])
        else:
            latents = torch.randn(clip.latents.shape, generator=generator).to(clip.latents)
        return sample(ctx, p, predict, schedule, timesteps, latents, text, eta=p.eta, generator=generator)

    def inflated(self, ctx: Context, p: Any, clip: Clip) -> Any:
        """The inflated network before tuning, for clips of this length."""
        frames = clip.latents.shape[2]
        return inflation.inflate(
            ctx.backbone.unet,
            frames,
            attention=RoutedAttention(sparse_causal(frames)),
            norm_over_frames=p.norm_over_frames,
            generator=ctx.generator(p.fit_seed),
            legacy_bias=p.legacy_bias_init,
        )

    def tuned(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Any:
        """The inflated network with the tuned weights."""
        network = self.inflated(ctx, p, clip)
        inflation.own(network, fitted.weights)
        return network
