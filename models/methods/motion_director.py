"""MotionDirector: learn how things move apart from what they look like, then move other things so. arXiv:2310.08465.

Motion Customization of Text-to-Video Diffusion Models (ECCV 2024).

How it works:
1. A spatial LoRA learns what the clip looks like, from single frames; layers over frames are taken out for that.
2. A temporal LoRA learns from the whole clip while the spatial one is there, so that only motion is left to learn. Its
   second loss subtracts an anchor frame from prediction and target: what all frames share counts less.
3. The temporal LoRA alone is kept. Sampling starts from a mixture of the inverted clip's noise and fresh noise.
Several clips that move alike (`references`) share the temporal LoRA; each has a spatial one.

Differs from the paper or its code:
- Both losses of a step see the same weights. The code steps the spatial set before the temporal backward pass.
- All layers over frames are skipped for one frame; the code forgets one (`legacy_mid_convolution`).
- The noise prior is the inversion with the motion learned, empty prompt; latents are the mode of the VAE's posterior.
- On an image checkpoint, which knows no motion, attention over frames is added as in Tune-A-Video and the temporal set
  lives there: motion then comes from the clip and from the noise prior alone.
- Pictures as a source of looks and mirrored training frames, options of the code, are not offered.

Measured on the miniature's text-to-video network, four held-out clips, another subject, which the judge always sees:
its track correlates with the source's by 0.94 on average (drift 0.98, arc 0.99, bounce 0.97, zoom 0.81). The inverted
noise alone brings places, 0.97, 0.98 and 0.95, but not the zoom, 0.05, which is learned. From fresh noise alone what is
learned brings 0.24: bounce 0.84, arc 0.71, zoom 0.22, and a drift the wrong way, -0.81.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from models import video
from models.backbones import unet3d
from models.context import Context
from models.errors import InvalidParams
from models.guidance import cfg
from models.guidance.sampling import sample
from models.inversion import ddim, noise_prior
from models.method import Method, Paper, VideoFile, VideoInput, asset, ladder
from models.params import VideoParams, param
from models.schedules.ddim import Schedule
from models.temporal import inflation
from models.tuning import paths
from models.tuning import spatial_temporal_lora as dual
from models.types import Clip, File, Fitted, Latents, Trajectory

VERSION = 1

FORGOTTEN = ("mid_block.temp_convs.0",)


class MotionDirector(Method):
    """Motion customisation with two sets of low-rank weights."""

    paper = Paper(
        arxiv="2310.08465",
        title="MotionDirector: Motion Customization of Text-to-Video Diffusion Models",
        venue="ECCV 2024",
    )
    claims = ("subject", "background")
    """It keeps the motion and makes other things move so; the source's looks are what it unlearns."""
    backbone = unet3d.ZEROSCOPE
    families = ("t2v", "sd")
    adherence = ladder(noise_prior=(0.9, 0.0))

    class Inputs(VideoInput):
        """The clip whose motion is learned, and others that move alike."""

        references: tuple[VideoFile, ...] = asset((), stage="fit", max_length=16)
        """Further clips that show the same motion; cut to the length of the first."""

    class Params(dual.Params, cfg.Params, VideoParams):
        """Tuning, noise prior and guidance."""

        source_prompt: str = param("", stage="fit", widget="prompt", max_length=2000)
        """What the clip shows; both sets learn to denoise it under this text."""
        reference_prompts: tuple[Annotated[str, Field(max_length=2000)], ...] = param(
            (), max_length=16, stage="fit", advanced=True, examples=[["a bird flying over the sea"]]
        )
        """What each of the references shows, in their order; none: the same as the clip."""
        legacy_mid_convolution: bool = param(False, stage="fit", advanced=True)
        """Leave one convolution over frames in for single frames, as the official code does."""
        num_inversion_steps: int = param(50, ge=0, le=1000, stage="invert", advanced=True)
        """Steps from the clip to the noise of the noise prior; 0 leaves the inversion out."""
        noise_prior: float = param(0.5, ge=0, le=1, stage="edit", widget="slider")
        """Share of the inverted clip's noise at the start: 0.1 to 0.5 for one clip, 0 for several."""
        motion_scale: float = param(1.0, ge=0, le=4, stage="edit", advanced=True)
        """Strength of the motion that was learned."""
        appearance_scale: float = param(0.0, ge=0, le=4, stage="edit", advanced=True)
        """Strength of the first clip's looks; 0 as published."""
        num_inference_steps: int = param(30, ge=1, le=1000, stage="edit", widget="slider")
        """Denoising steps."""
        guidance_scale: float = param(12.0, ge=1, le=50, stage="edit", widget="slider")
        """How strongly the prompt pulls; 1 turns guidance off and halves the cost."""

        @model_validator(mode="after")
        def prior_needs_an_inversion(self) -> Self:
            """A noise prior is made of an inversion."""
            if self.noise_prior > 0 and self.num_inversion_steps == 0:
                raise ValueError("noise_prior needs num_inversion_steps; set it to 0 to start from fresh noise")
            return self

    def fit(self, ctx: Context, p: Any, clip: Clip) -> Fitted:
        """Learn both sets; the result holds them and the layers that were added."""
        backbone = ctx.backbone
        examples = learned_from(ctx, p, clip)
        kept = FORGOTTEN if p.legacy_mid_convolution else ()
        fitted = dual.tune(ctx, p, examples, paths.each_frame(backbone.unet, kept))
        added = inflation.added(examples[0].network, backbone.unet)
        return Fitted({**added, **fitted.weights}, fitted.losses)

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Trajectory:
        """Invert the clip under the empty prompt, or give the clip back when no inversion is wanted."""
        if p.num_inversion_steps == 0:
            return Trajectory(clip.latents[None], torch.zeros(0, dtype=torch.long))
        backbone = ctx.backbone
        schedule = Schedule.from_config(backbone.scheduler_config)
        predict = paths.denoiser(backbone, moved(ctx, p, clip, fitted))
        text = backbone.encode_text([""])

        def denoise(latents: Latents, t: int) -> Latents:
            return predict(latents, t, text)

        return ddim.walk(denoise, schedule, clip.latents, p.num_inversion_steps, keep=(), track=ctx.steps)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted, trajectory: Trajectory) -> Latents:
        """Sample with the motion under the target prompt: `1 c f h w`."""
        backbone = ctx.backbone
        schedule = Schedule.from_config(backbone.scheduler_config)
        timesteps = schedule.timesteps(p.num_inference_steps)
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        network = moved(ctx, p, clip, fitted, motion_scale=p.motion_scale, appearance_scale=p.appearance_scale)
        predict = paths.denoiser(backbone, network)
        fresh = torch.randn(clip.latents.shape, generator=ctx.generator(p.seed)).to(clip.latents)
        latents = noise_prior.mixed(trajectory.latents[-1], fresh, p.noise_prior)
        return sample(ctx, p, predict, schedule, timesteps, latents, text)


def learned_from(ctx: Context, p: Any, clip: Clip) -> Sequence[dual.Example]:
    """The clip and the references, each with its text and its network."""
    latents = [clip.latents, *(encoded(ctx, file, clip) for file in ctx.inputs.get("references", ()))]  # type: ignore[union-attr]
    prompts = (p.source_prompt, *(p.reference_prompts or (p.source_prompt,) * (len(latents) - 1)))
    if len(prompts) != len(latents):
        raise InvalidParams(f"{len(latents) - 1} references but {len(prompts) - 1} reference_prompts")
    unet, lengths = ctx.backbone.unet, {part.shape[2] for part in latents}
    networks = {length: paths.over_frames(unet, length, ctx.generator(p.fit_seed)) for length in lengths}
    texts = ctx.backbone.encode_text(prompts).split(1)
    return [dual.Example(z, text, networks[z.shape[2]]) for z, text in zip(latents, texts, strict=True)]


def encoded(ctx: Context, file: File, clip: Clip) -> Latents:
    """Latents of a reference at the clip's size, of at most its length."""
    ctx.check()
    frames, _, height, width = clip.frames.shape
    footage = video.read(file.path, fps=clip.fps, max_frames=frames, width=width, height=height)
    return ctx.backbone.encode_frames(footage.frames)


def moved(
    ctx: Context, p: Any, clip: Clip, fitted: Fitted, *, motion_scale: float = 1.0, appearance_scale: float = 0.0
) -> Any:
    """The network over frames with what was learned."""
    network = paths.over_frames(ctx.backbone.unet, clip.latents.shape[2], ctx.generator(p.fit_seed))
    dual.load(network, fitted.weights, temporal_scale=motion_scale, spatial_scale=appearance_scale)
    return network
