"""Dreamix: blur a clip, add noise, let a video model tuned to it make it anew. arXiv:2302.01329 (2023).

Video Diffusion Models are General Video Editors.

How it works:
1. Mixed tuning: the network learns the clip as a clip, and its frames as a heap, layers over frames taken out.
2. The clip loses its detail (scaled down and up) and gets noise up to `strength`; from there the tuned network denoises
   under the prompt. Much noise frees the motion, little keeps the clip.
3. A `picture` is animated by making a coarse clip of it with a moving camera, and editing that.
4. A subject: the frames to learn from are `pictures` of it, the loss is on them alone, the noise is full.

Differs from the paper or its code (there is none, and its model, a cascade in pixel space, is closed):
- A re-implementation on text-to-video latent diffusion; no equality with the published results is claimed. There are no
  super-resolution stages to tune; the finest detail is the VAE's.
- Inferred: low-rank weights learn by default instead of all (`tuned`), AdamW for Adafactor, DDIM, all constants.
- For single frames layers over frames are skipped whole; the paper masks their attention, so that a frame sees itself.
- On an image checkpoint layers over frames are added as in Tune-A-Video and learn from this clip alone.

Measured on the miniature's text-to-video network, four held-out clips, another colour or subject: seen by the judge in
all frames, background and style kept in all; the subject's track correlates with the source's by 0.91 on average and
0.84 at least.
"""

from typing import Any

import torch

from models.backbones import unet3d
from models.context import Context
from models.guidance import cfg
from models.guidance.sampling import sample
from models.inversion.degraded import degraded
from models.method import ImageFile, Method, Paper, VideoInput, asset, ladder
from models.params import VideoParams, param
from models.propagation.camera import Camera, moved
from models.schedules.ddim import Schedule, add_noise
from models.tuning import mixed, paths
from models.types import Clip, Fitted, Frames, Latents
from models.video.picture import read_picture

VERSION = 1


class Dreamix(Method):
    """Mixed tuning of a video model, and denoising from a degraded clip."""

    paper = Paper(
        arxiv="2302.01329",
        title="Dreamix: Video Diffusion Models are General Video Editors",
        venue="arXiv 2023",
    )
    backbone = unet3d.ZEROSCOPE
    families = ("t2v", "sd")
    adherence = ladder(strength=(0.55, 0.95))

    class Inputs(VideoInput):
        """The clip, and pictures to animate or to learn a subject from."""

        picture: ImageFile | None = asset(None, stage="prepare")
        """A picture to animate instead of the clip, which then gives size, length and frame rate only."""
        pictures: tuple[ImageFile, ...] = asset((), stage="fit", max_length=16)
        """Pictures of a subject; single frames to learn from are then these instead of the clip's."""

    class Params(mixed.Params, cfg.Params, VideoParams):
        """The camera of an animated picture, tuning, and how much is made anew."""

        camera: Camera = param("zoom_in", stage="prepare", advanced=True)
        """How the camera moves over a picture that is animated."""
        camera_travel: float = param(0.2, ge=0, le=0.9, stage="prepare", advanced=True)
        """How far it moves, as a part of the picture's side."""
        source_prompt: str = param("", stage="fit", widget="prompt", max_length=2000)
        """What the clip shows."""
        subject_prompt: str = param("", stage="fit", widget="prompt", max_length=2000, advanced=True)
        """What the pictures show, the subject named by a rare word; left out, the text of the clip."""
        strength: float = param(0.75, gt=0, le=1, stage="edit", widget="slider")
        """Fraction of the schedule that is denoised again: 0.6 to 0.85; 1 starts from noise alone."""
        degrade_factor: float = param(3.0, ge=1, le=16, stage="edit", advanced=True)
        """The clip is scaled down by this factor, and up again, before it gets noise."""
        temporal_stride: int = param(1, ge=1, le=16, stage="edit", unit="frames", advanced=True)
        """One frame of so many is kept and held for the others, which frees the motion."""
        eta: float = param(0.0, ge=0, le=1, stage="edit", advanced=True)
        """Randomness of the sampler: 0 deterministic, 1 as much as DDPM."""

    def prepare(self, ctx: Context, p: Any, inputs: VideoInput) -> Clip:
        """Read the clip, or make one of the picture."""
        clip = super().prepare(ctx, p, inputs)
        picture = ctx.inputs.get("picture")
        if picture is None:
            return clip
        height, width = clip.frames.shape[-2:]
        still = read_picture(picture.path, width=width, height=height)  # type: ignore[union-attr]
        frames = moved(still, len(clip.frames), p.camera, p.camera_travel)
        return Clip(frames, ctx.backbone.encode_frames(frames), clip.fps, clip.source_width, clip.source_height)

    def fit(self, ctx: Context, p: Any, clip: Clip) -> Fitted:
        """Tune on the clip and on single frames."""
        backbone = ctx.backbone
        texts = backbone.encode_text([p.source_prompt, p.subject_prompt or p.source_prompt])
        pictures = subject(ctx, clip)
        frames = clip.latents if pictures is None else backbone.encode_frames(pictures)
        seen = mixed.Seen(frames, texts[:1] if pictures is None else texts[1:])
        return mixed.tune(ctx, p, mixed.Seen(clip.latents, texts[:1]), seen)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted, trajectory: None) -> Latents:
        """Denoise the degraded clip with the tuned network: `1 c f h w`."""
        backbone, generator, n = ctx.backbone, ctx.generator(p.seed), p.num_inference_steps
        schedule = Schedule.from_config(backbone.scheduler_config)
        timesteps = schedule.timesteps(n)[n - max(1, round(p.strength * n)) :]
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        network = paths.over_frames(backbone.unet, clip.latents.shape[2], ctx.generator(p.fit_seed))
        paths.load(network, fitted.weights)
        predict = paths.denoiser(backbone, network)
        noise = torch.randn(clip.latents.shape, generator=generator).to(clip.latents)
        latents = noise
        if p.strength < 1:
            coarse = backbone.encode_frames(degraded(clip.frames, p.degrade_factor, p.temporal_stride))
            latents = add_noise(schedule, coarse, noise, timesteps[0])
        return sample(ctx, p, predict, schedule, timesteps, latents, text, eta=p.eta, generator=generator)


def subject(ctx: Context, clip: Clip) -> Frames | None:
    """The pictures at the clip's size, if there are any."""
    given, (height, width) = ctx.inputs.get("pictures", ()), clip.frames.shape[-2:]
    read = [read_picture(picture.path, width=width, height=height) for picture in given]  # type: ignore[union-attr]
    return torch.stack(read) if read else None
