"""Video-P2P: Prompt-to-Prompt for a clip, on a network tuned to it. arXiv:2303.04761 (CVPR 2024).

How it works:
1. Inflate the image UNet (self-attention looks at the first frame, attention over frames is added) and tune it on the
   clip under its own prompt.
2. DDIM inversion with the source prompt; one null embedding a timestep, shared by all frames, is optimised so that the
   guided source retraces it.
3. Denoise source and edit together. Only the source has the optimised null text (decoupled guidance). The edit's cross-
   and temporal attention maps are made from the source's: swapped, refined, reweighted.
4. With blend words, outside the places they attend to the latents are the source's.

Differs from the paper or its code:
- `null_text_inner_steps=0` is the code's fast mode: the source is denoised without guidance.
- The source's branches are left out once nothing of it is used, which changes no number.
- What the paper calls self-attention control is, as in the code, control of the attention over frames.
- Timesteps are the checkpoint's (981 … 1); the code's are one lower (`legacy_timesteps`).
- Where a word is shows in layers of a quarter of the latents' side at 512 pixels, as published, and finer ones below.
- A new temporal layer changes nothing until it is tuned. The code leaves its output bias random (`legacy_bias_init`).
"""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from models.attention.frame_index import frame_index
from models.attention.installed import RoutedAttention
from models.backbones import sd
from models.context import Context
from models.controls import blend, pair, words
from models.controls.attend import controlled
from models.controls.cross import cross_edit
from models.controls.follow import Follower
from models.controls.record import MAX_QUERIES, Layers, watch
from models.guidance import cfg
from models.inversion import ddim, null_text
from models.method import Method, Paper, ladder
from models.params import VideoParams, param
from models.schedules.ddim import Schedule, step
from models.temporal import inflation
from models.tuning import inflated, one_shot
from models.types import Clip, Embeds, Fitted, Latents, Trajectory

VERSION = 1

CONTROLLED = ("attn2", "attn_temp")


class VideoP2P(Method):
    """Prompt-to-Prompt on a tuned network, with decoupled guidance."""

    paper = Paper(arxiv="2303.04761", title="Video-P2P: Video Editing with Cross-attention Control", venue="CVPR 2024")
    claims = ("subject", "colour", "style")
    """Words swapped, refined and reweighted, with the source's poses and scene preserved."""
    backbone = sd.V1_5
    adherence = ladder(cross_replace_until=(0.8, 0.0), self_replace_until=(0.9, 0.1))

    class Params(one_shot.Params, null_text.Params, blend.Params, VideoParams):
        """Tuning, inversion, guidance, and what the edit keeps of the source."""

        source_prompt: str = param(..., min_length=1, max_length=2000, stage="fit", widget="prompt")
        """What the source clip shows; words it shares with the prompt keep their place."""
        num_tuning_steps: int = param(300, ge=1, le=20_000, stage="fit", unit="steps")
        """Gradient steps on the clip; more fit it closer and leave less room for the edit."""
        trainable_modules: tuple[Annotated[str, Field(min_length=1)], ...] = param(
            ("attn1.to_q", "attn2.to_q", "attn_temp"), min_length=1, stage="fit", advanced=True
        )
        """Which modules learn: those whose path ends with one of these."""
        norm_over_frames: bool = param(True, stage="fit", advanced=True)
        """Whether GroupNorm takes its statistics over the clip (as published) or over each frame."""
        legacy_bias_init: bool = param(False, stage="fit", advanced=True)
        """Start the temporal layers with a random output bias, as the official code does."""
        legacy_timesteps: bool = param(False, stage="invert", advanced=True)
        """Timesteps 980 … 0, as the official code's, instead of the checkpoint's."""
        cross_replace_until: float = param(0.2, ge=0, le=1, stage="edit", widget="slider")
        """Fraction of denoising during which words attend to where the source's do; more keeps the layout."""
        self_replace_until: float = param(0.5, ge=0, le=1, stage="edit", widget="slider")
        """Fraction of denoising during which attention over frames is the source's; more keeps the motion."""
        blend_from: float = param(0.2, ge=0, le=1, stage="edit", advanced=True)
        """Fraction of denoising after which latents are blended, when there are blend words."""
        max_replaced_queries: int = param(MAX_QUERIES, ge=1, stage="edit", advanced=True)
        """Cross-attention layers with more places than this keep their own maps."""

    def fit(self, ctx: Context, p: Any, clip: Clip) -> Fitted:
        """Tune on the clip; the result holds the tuned weights and the added layers."""
        return inflated.tune(ctx, p, inflate(ctx, p, clip), clip.latents, p.source_prompt, p.trainable_modules)

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Trajectory:
        """Invert the clip under the source prompt, then fit the null text."""
        schedule = schedule_of(ctx, p)
        network, predict = tuned(ctx, p, clip, fitted)
        source, null = ctx.backbone.encode_text([p.source_prompt, ""]).split(1)

        def denoise(latents: Latents, t: int) -> Latents:
            return predict(latents, t, source)

        walked = ddim.walk(denoise, schedule, clip.latents, p.num_inference_steps, track=ctx.steps)
        if p.null_text_inner_steps == 0 or p.guidance_scale == 1:
            return walked
        one_shot.checkpoint(network, clip.latents, p.gradient_checkpointing)
        fit = null_text.fit(ctx, p, predict, schedule, walked.latents, source, null)
        return replace(walked, null_embeds=fit.null_embeds)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted, trajectory: Trajectory) -> Latents:
        """Denoise source and edit together from the inverted noise: `1 c f h w`."""
        backbone, schedule, n = ctx.backbone, schedule_of(ctx, p), p.num_inference_steps
        network, predict = tuned(ctx, p, clip, fitted)
        source_text = cfg.Branches(None, backbone.encode_text([p.source_prompt]))
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        follower = follow(backbone.tokenizer, p, clip)
        state = pair.Beside(trajectory.latents[-1], trajectory.latents[-1], follower)
        with controlled(network, follower, CONTROLLED):
            for i, t in ctx.steps(list(enumerate(schedule.timesteps(n))), state):
                source, latents = state.source, state.latents
                follower.step = i
                if not follower.needs_source():
                    output = cfg.guided(predict, latents, t, text, p.guidance_scale)
                    state.latents = step(schedule, output, latents, level=t, to=t - schedule.stride(n))
                    continue
                if trajectory.null_embeds is not None and text.unconditional is not None:
                    source_text = source_text._replace(unconditional=trajectory.null_embeds[i])
                moved = pair.denoise(predict, follower, (source, source_text), (latents, text), t, p.guidance_scale)
                source, latents = (
                    step(schedule, output, z, level=t, to=t - schedule.stride(n))
                    for output, z in zip(moved, (source, latents), strict=True)
                )
                latents = blended(follower, source, latents, i + 1 > int(p.blend_from * n), p.blend_threshold)
                state.source, state.latents = source, latents
        return state.latents


def blended(follower: Follower, source: Latents, latents: Latents, active: bool, threshold: float) -> Latents:
    """The edit inside the places that blend words attended to in all steps so far, the source outside."""
    watches = (follower.source_watch, follower.edit_watch)
    seen = [seen_by.relevance() for seen_by in watches if seen_by is not None]
    if not seen or not active:
        return latents
    return blend.keep_outside(source, latents, blend.union(seen, latents.shape[-2:], threshold))


def follow(tokenizer: Any, p: VideoP2P.Params, clip: Clip) -> Follower:
    """The control of the edit; watches see source maps, and the edit's as they became, as the code's store does."""
    height, width = clip.latents.shape[-2:]
    layers = Layers(height, width, p.max_replaced_queries)
    rows = words.window(p.self_replace_until, p.num_inference_steps)
    follower = Follower(layers, cross_edit(tokenizer, p, p.num_inference_steps), rows)
    follower.source_watch = watch(tokenizer, layers, p.source_prompt, p.blend_source_words)
    follower.edit_watch = watch(tokenizer, layers, p.prompt, p.blend_target_words)
    return follower


def schedule_of(ctx: Context, p: Any) -> Schedule:
    """The checkpoint's schedule, or the one the official code makes by hand."""
    schedule = Schedule.from_config(ctx.backbone.scheduler_config)
    return replace(schedule, steps_offset=0) if p.legacy_timesteps else schedule


def inflate(ctx: Context, p: Any, clip: Clip) -> Any:
    """The network for clips of this length before tuning."""
    frames = clip.latents.shape[2]
    return inflation.inflate(
        ctx.backbone.unet,
        frames,
        attention=RoutedAttention(frame_index(frames, ("first",))),
        norm_over_frames=p.norm_over_frames,
        generator=ctx.generator(p.fit_seed),
        legacy_bias=p.legacy_bias_init,
    )


def tuned(ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> tuple[Any, cfg.Denoise]:
    """The tuned network, and predictions with it."""
    network = inflate(ctx, p, clip)
    inflation.own(network, fitted.weights)

    def predict(latents: Latents, t: int, text: Embeds) -> Latents:
        return ctx.backbone.predict(latents, t, text, unet=network)

    return network, predict
