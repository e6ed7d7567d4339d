"""Ground-A-Video: change several things of a clip at once, each where its box is. arXiv:2310.01107 (ICLR 2024).

Ground-A-Video: Zero-shot Grounded Video Editing using Text-to-image Diffusion Models.

How it works:
1. Each object has a box in every frame, a phrase for what is there and one for what is wanted.
2. DDIM inversion frame by frame, by default with the empty prompt, grounded in the source's phrases. Where optical flow
   says that nothing moves, a frame takes the inverted noise of the one before it.
3. Sampling with the wanted phrases: self-attention and gated layers look at all frames and the objects of all frames.
4. Optionally the null text of every frame is optimised; the unconditional branch then reads all frames' null texts.
5. Outside all boxes the latents are the source's, with fresh noise at every step.

Differs from the paper or its code:
- Gated layers need a grounded checkpoint (GLIGEN, text-box or inpainting text-box, as diffusers loads it). On any other
  the boxes still say where the clip may change and the prompt what; a warning `grounding_unavailable` is given.
- The depth ControlNet of the published pipeline is on when it is named (`control_net`), and then across frames too.
- Flow is OpenCV's DIS. The inversion's noise is moved to the level sampling starts from, and optimised null texts are
  used at the timesteps they belong to; the code does neither (`legacy_start_level`, `legacy_null_order`).
- Which branch is which is said, not counted: the code swaps roles at every call.
On the miniature's grounded network 88 % of generated subjects lie in their box, 15 % without; see its model card.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Self

import torch
from einops import rearrange
from pydantic import Field, model_validator

from models.attention.across_frames import across_frames
from models.attention.dense import dense
from models.attention.installed import RoutedAttention, installed
from models.backbones import sd
from models.backbones.backbone import Backbone
from models.conditions import controlnet, grounding, optical_flow
from models.context import Context
from models.guidance import cfg
from models.inversion import ddim, null_text
from models.method import ControlledInput, Method, Paper
from models.params import VideoParams, param
from models.propagation import still
from models.resume import Sampling
from models.schedules.ddim import Schedule, add_noise, step
from models.temporal import inflation
from models.types import Clip, Embeds, Fitted, Latents, Trajectory

VERSION = 1

Phrase = Annotated[str, Field(max_length=500)]


class GroundAVideo(Method):
    """Grounded editing without training."""

    paper = Paper(
        arxiv="2310.01107",
        title="Ground-A-Video: Zero-shot Grounded Video Editing using Text-to-image Diffusion Models",
        venue="ICLR 2024",
    )
    backbone = sd.GLIGEN
    families = ("grounded", "sd")
    Inputs = ControlledInput

    class Params(controlnet.Params, cfg.Params, null_text.Params, VideoParams):
        """Boxes and phrases, inversion, guidance, and what is kept."""

        boxes: grounding.Boxes = param(..., stage="invert", widget="boxes", labels=("source_phrases", "phrases"))
        """For each object its boxes (left, top, right, bottom; fractions): one, or several spread over the clip."""
        source_phrases: tuple[Phrase, ...] | None = param(None, stage="invert", examples=[["a blue car"]])
        """What is in each box of the source; left out, the inversion knows nothing of objects."""
        phrases: tuple[Phrase, ...] = param(..., min_length=1, stage="edit", examples=[["a red bear"]])
        """What is wanted in each box."""
        num_inversion_steps: int = param(20, ge=2, le=1000, stage="invert", advanced=True)
        """Steps from clean to noise."""
        null_text_inner_steps: int = param(0, ge=0, le=500, stage="invert", advanced=True)
        """Optimiser updates of each frame's null text at each timestep; 0 leaves it out, 1 as published with it."""
        null_text_guidance_scale: float = param(12.5, ge=1, le=50, stage="invert", advanced=True)
        """Guidance while null texts are optimised."""
        guidance_scale: float = param(12.5, ge=1, le=50, stage="edit", widget="slider")
        """How strongly the prompt pulls; 1 turns guidance off and halves the cost."""
        quality_prompt: str = param("best quality, extremely detailed", stage="edit", max_length=500, advanced=True)
        """Appended to the prompt."""
        grounding_until: float = param(1.0, ge=0, le=1, stage="edit", advanced=True)
        """Fraction of denoising during which gated layers are in use."""
        inpaint: bool = param(True, stage="edit")
        """Outside the boxes the clip stays the source."""
        motion_threshold: float = param(0.2, ge=0, le=1, stage="edit", widget="slider", advanced=True)
        """A place moves where its flow exceeds this fraction of the pair's longest; 0 leaves the noise as it is."""
        norm_over_frames: bool = param(True, stage="edit", advanced=True)
        """Whether GroupNorm takes its statistics over the clip while sampling (as published) or over each frame."""
        legacy_start_level: bool = param(False, stage="edit", advanced=True)
        """Start from the inverted noise unchanged, whatever its level, as the official code does."""
        legacy_null_order: bool = param(False, stage="edit", advanced=True)
        """Use optimised null texts one after the other from the first step on, as the official code does."""

        @model_validator(mode="after")
        def one_phrase_for_each_box(self) -> Self:
            """As many phrases as objects, in both prompts."""
            for name in ("phrases", "source_phrases"):
                given = getattr(self, name)
                if given is not None and len(given) != len(self.boxes):
                    raise ValueError(f"{name} has {len(given)} entries for {len(self.boxes)} objects in boxes")
            return self

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None) -> Trajectory:
        """Invert frame by frame, grounded in the source's phrases; keep its end, and null texts when wanted."""
        backbone, schedule = ctx.backbone, Schedule.from_config(ctx.backbone.scheduler_config)
        source, null = backbone.encode_text([p.source_prompt, ""]).split(1)
        network = ground(ctx, p, clip, backbone.unet, p.source_phrases)
        predict = partial(backbone.predict, unet=network)

        def denoise(latents: Latents, t: int) -> Latents:
            return predict(latents, t, source)

        keep = None if p.null_text_inner_steps > 0 else ()
        walked = ddim.walk(denoise, schedule, clip.latents, p.num_inversion_steps, keep=keep, track=ctx.steps)
        if p.null_text_inner_steps == 0:
            return walked
        found = null_text.optimise(
            predict,
            schedule,
            walked.latents,
            source,
            null,
            p.null_text_guidance_scale,
            inner_steps=p.null_text_inner_steps,
            learning_rate=p.null_text_learning_rate,
            early_stop=p.null_text_early_stop,
            per_frame=True,
            track=lambda timesteps, state: ctx.steps(timesteps, state, "null text"),
        )
        return replace(walked, null_embeds=found.null_embeds)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None, trajectory: Trajectory) -> Latents:
        """Sample from the smoothed noise, grounded in the wanted phrases: `1 c f h w`."""
        backbone, frames = ctx.backbone, clip.latents.shape[2]
        if not grounding.is_grounded(backbone.unet):
            ctx.warn("grounding_unavailable", "the checkpoint has no gated layers: phrases do nothing, boxes confine")
        schedule = Schedule.from_config(backbone.scheduler_config)
        stride, timesteps = schedule.stride(p.num_inference_steps), schedule.timesteps(p.num_inference_steps)
        prompt = f"{p.prompt}, {p.quality_prompt}" if p.quality_prompt else p.prompt
        text = cfg.encode(backbone, prompt, p.negative_prompt, p.guidance_scale)
        everywhere, over = RoutedAttention(dense(frames)), p.norm_over_frames
        inflate = partial(inflation.inflate, frames=frames, attention=everywhere, norm_over_frames=over, temporal=False)
        unet, control = inflate(backbone.unet), controlnet.found(ctx, p, clip, timesteps).through(inflate)
        grounded = ground(ctx, p, clip, unet, p.phrases)
        boxes = grounding.per_frame(p.boxes, frames)
        outside = grounding.outside(boxes, clip.latents.shape[-2:])[:, 0].to(clip.latents)  # f h w
        state = Sampling(initial(ctx, p, clip, schedule, trajectory, timesteps[0]), ctx.generator(p.seed))
        for i, t in ctx.steps(list(enumerate(timesteps)), state):
            latents = state.latents
            if i >= int(p.grounding_until * len(timesteps)):
                grounded = grounding.Grounded(unet, None, grounded.more)
            if p.inpaint:
                noise = torch.randn(latents.shape, generator=state.generator).to(latents)
                latents = torch.lerp(latents, add_noise(schedule, clip.latents, noise, t), outside)
            output = predict(backbone, grounded, latents, t, text.conditional, control)
            if text.unconditional is not None:
                null = null_text.optimised(trajectory, t, i, legacy=p.legacy_null_order)
                null = text.unconditional if null is None else null
                without = predict(backbone, grounded.nowhere(), latents, t, null, control.unconditional())
                output = cfg.combine(without, output, p.guidance_scale)
            state.latents = step(schedule, output, latents, level=t, to=t - stride)
        return state.latents


def predict(
    backbone: Backbone,
    network: grounding.Grounded,
    latents: Latents,
    t: int,
    text: Embeds,
    control: controlnet.Control = controlnet.OFF,
) -> Latents:
    """One prediction across all frames; texts of single frames (`f n d`) are read by all."""
    with installed(network.unet, across_frames(latents.shape[2], modulated=len(text) > 1)):
        if len(text) == 1:
            return backbone.predict(latents, t, text, unet=network, control=control)
        apart, alone = rearrange(latents, "1 c f h w -> f c 1 h w"), replace(control, by_frame=True)
        folded = backbone.predict(apart, t, text, unet=network, control=alone)
    return rearrange(folded, "f c 1 h w -> 1 c f h w")


def initial(ctx: Context, p: Any, clip: Clip, schedule: Schedule, trajectory: Trajectory, t: int) -> Latents:
    """The inverted noise; what stands still has that of the frame before."""
    latents = trajectory.latents[-1] if p.legacy_start_level else ddim.start(schedule, trajectory, t)
    if p.motion_threshold == 0 or len(clip.frames) == 1:
        return latents
    flow = ctx.condition(optical_flow.forward, clip)
    return still.carried(latents, still.moving(flow, latents.shape[-2:], p.motion_threshold))


def ground(ctx: Context, p: Any, clip: Clip, unet: Any, phrases: tuple[str, ...] | None) -> grounding.Grounded:
    """The network with these phrases in their boxes, as far as its checkpoint can."""
    boxes = grounding.per_frame(p.boxes, clip.latents.shape[2])
    able = phrases is not None and grounding.is_grounded(unet)
    where = grounding.objects(ctx.backbone, boxes, phrases or ()) if able else None
    more = grounding.masked_source(unet, clip.latents, grounding.outside(boxes, clip.latents.shape[-2:]))
    return grounding.Grounded(unet, where, more)
