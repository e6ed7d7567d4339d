"""FateZero: fuse the attention of the inversion into the edit. arXiv:2303.09535 (ICCV 2023).

How it works:
1. The image network sees clips: self-attention looks at the middle frame, GroupNorm takes statistics over the clip.
2. DDIM inversion with the source prompt, without guidance.
3. Each sampling step takes cross-attention maps from the inversion step at the same timestep (swap, refine, reweight).
4. Self-attention maps come from there too; with blend words only outside the region that the source's words attend to.
5. Optionally latents outside the region of source and target words are the inverted ones.

Differs from the paper or its code:
- The code keeps every attention map of the inversion: 39 GB for 8 frames and 50 steps at 512 pixels. Here the source's
  latents are kept (27 MB) and go through the network again when a step uses the source: one evaluation more in those
  steps, its queries and keys held until the edit's evaluation. No map outlives its layer.
- Blended latents come from the trajectory at the level of the edit; the code takes them one level noisier
  (`legacy_blend_level`).
- Where a word is shows in layers of a quarter of the latents' side at 512 pixels, as published, and finer ones below.
- Temporal layers exist only after tuning (`num_tuning_steps`, for changes of shape) and start as identity.
"""

from typing import Any

from models.attention.frame_index import Frame, frame_index
from models.attention.installed import Policy
from models.backbones import sd
from models.context import Context
from models.controls import blend, pair, words
from models.controls.attend import Policies, controlled, routed
from models.controls.cross import cross_edit
from models.controls.follow import Follower
from models.controls.record import MAX_QUERIES, Layers, Recorder, watch
from models.guidance import cfg
from models.inversion import ddim
from models.method import Method, Paper, ladder
from models.params import VideoParams, param
from models.schedules.ddim import Schedule, step
from models.temporal import inflation
from models.tuning import inflated, one_shot
from models.types import Clip, Embeds, Fitted, Latents, Trajectory

VERSION = 1

CONTROLLED = ("attn1", "attn2")
TRAINED = ("attn1.to_q", "attn2.to_q", "attn_temp")


class FateZero(Method):
    """Attention fusion without training."""

    paper = Paper(
        arxiv="2303.09535",
        title="FateZero: Fusing Attentions for Zero-shot Text-based Video Editing",
        venue="ICCV 2023",
    )
    claims = ("colour", "style")
    """Zero-shot; its edits of shape start from a network that was tuned to the clip."""
    backbone = sd.V1_5
    adherence = ladder(cross_replace_until=(1.0, 0.4), self_replace_until=(1.0, 0.4))

    class Params(one_shot.Params, blend.Params, VideoParams):
        """Tuning (none by default), inversion, guidance, and what is fused."""

        source_prompt: str = param(..., min_length=1, max_length=2000, stage="fit", widget="prompt")
        """What the source clip shows; words it shares with the prompt keep their place."""
        num_tuning_steps: int = param(0, ge=0, le=20_000, stage="fit", unit="steps", advanced=True)
        """Gradient steps on the clip before inversion; about 200 to change shapes, none for style and attributes."""
        learning_rate: float = param(1e-5, gt=0, le=1, stage="fit", advanced=True)
        """Step size of AdamW, constant."""
        frame_indices: tuple[Frame, ...] = param(("mid",), max_length=8, stage="fit", advanced=True)
        """Frames whose keys and values every frame sees: first, mid, last, or relative ones (-1 the one before)."""
        least_sc_channel: int | None = param(None, ge=1, stage="fit", unit="channels", advanced=True)
        """Self-attention crosses frames in layers at least this wide; left out, in all but the finest (SD: 640)."""
        norm_over_frames: bool = param(True, stage="fit", advanced=True)
        """Whether GroupNorm takes its statistics over the clip (as published) or over each frame."""
        num_inference_steps: int = param(50, ge=1, le=1000, stage="invert", widget="slider")
        """Steps of the inversion and of denoising."""
        self_replace_until: float = param(0.8, ge=0, le=1, stage="edit", widget="slider")
        """Fraction of denoising during which self-attention is the source's; more keeps shapes and motion."""
        blend_self_attention: bool = param(True, stage="edit", advanced=True)
        """Where blend words attend to, self-attention is the edit's own."""
        blend_latents: bool = param(False, stage="edit")
        """Outside the region of the blend words the latents are the source's."""
        blend_from: float = param(0.2, ge=0, le=1, stage="edit", advanced=True)
        """Fraction of denoising after which latents are blended."""
        blend_until: float = param(0.8, ge=0, le=1, stage="edit", advanced=True)
        """Fraction of denoising until which latents are blended."""
        legacy_blend_level: bool = param(False, stage="edit", advanced=True)
        """Blend with inverted latents one level noisier than the edit's, as the official code does."""
        max_replaced_queries: int = param(MAX_QUERIES, ge=1, stage="edit", advanced=True)
        """Layers with more places than this keep their own attention."""

    def fit(self, ctx: Context, p: Any, clip: Clip) -> Fitted:
        """Tune queries and temporal attention on the clip when asked to."""
        if p.num_tuning_steps == 0:
            return Fitted({})
        network = inflate(ctx, p, clip, temporal=True)
        with routed(network, policies(network, p, clip)):
            return inflated.tune(ctx, p, network, clip.latents, p.source_prompt, TRAINED)

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Trajectory:
        """Invert the clip under the source prompt."""
        backbone, network = ctx.backbone, tuned(ctx, p, clip, fitted)
        schedule = Schedule.from_config(backbone.scheduler_config)
        text = backbone.encode_text([p.source_prompt])

        def denoise(latents: Latents, t: int) -> Latents:
            return backbone.predict(latents, t, text, unet=network)

        with routed(network, policies(network, p, clip)):
            return ddim.walk(denoise, schedule, clip.latents, p.num_inference_steps, track=ctx.steps)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted, trajectory: Trajectory) -> Latents:
        """Sample from the inverted noise, attention fused with the source's: `1 c f h w`."""
        backbone, network, n = ctx.backbone, tuned(ctx, p, clip, fitted), p.num_inference_steps
        schedule, routes = Schedule.from_config(backbone.scheduler_config), policies(network, p, clip)
        source_text = backbone.encode_text([p.source_prompt])
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        edit = follower(backbone.tokenizer, p, clip)
        source_watch = watch(backbone.tokenizer, edit.layers, p.source_prompt, p.blend_source_words)

        def predict(latents: Latents, t: int, text: Embeds) -> Latents:
            return backbone.predict(latents, t, text, unet=network)

        state = pair.Following(trajectory.latents[-1], edit)
        for i, t in ctx.steps(list(enumerate(schedule.timesteps(n))), state):
            edit.step = i
            blending = edit.edit_watch is not None and int(p.blend_from * n) < i + 1 < int(p.blend_until * n)
            if edit.needs_source() or blending:
                source = Recorder(edit.layers, source_watch)
                with controlled(network, source, CONTROLLED, routes):
                    predict(trajectory.latents[n - 1 - i], t, source_text)
                edit.kept = source.kept
                if source_watch is not None and p.blend_self_attention:
                    edit.inside = (source_watch.relevance(), p.blend_threshold)
            with controlled(network, edit, CONTROLLED, routes):
                output = cfg.guided(predict, state.latents, t, text, p.guidance_scale)
            latents = step(schedule, output, state.latents, level=t, to=t - schedule.stride(n))
            if blending:
                seen = [seen_by.relevance() for seen_by in (source_watch, edit.edit_watch) if seen_by is not None]
                inside = blend.union(seen, latents.shape[-2:], p.blend_threshold)
                latents = blend.keep_outside(trajectory.latents[n - 1 - i + p.legacy_blend_level], latents, inside)
            state.latents = latents
        return state.latents


def follower(tokenizer: Any, p: FateZero.Params, clip: Clip) -> Follower:
    """The control of the edit; its watch sums the maps that the edit had before they were changed."""
    height, width = clip.latents.shape[-2:]
    layers = Layers(height, width, p.max_replaced_queries)
    rows = words.window(p.self_replace_until, p.num_inference_steps)
    follower = Follower(layers, cross_edit(tokenizer, p, p.num_inference_steps), rows, watch_edited=False)
    follower.branches = 1 if p.guidance_scale == 1 else 2
    if p.blend_latents:
        follower.edit_watch = watch(tokenizer, layers, p.prompt, p.blend_target_words)
    return follower


def inflate(ctx: Context, p: Any, clip: Clip, *, temporal: bool) -> Any:
    """The network for clips of this length; a tuned one has temporal layers."""
    return inflation.inflate(
        ctx.backbone.unet,
        clip.latents.shape[2],
        norm_over_frames=p.norm_over_frames,
        temporal=temporal,
        generator=ctx.generator(p.fit_seed),
    )


def tuned(ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Any:
    """The network with the weights that were tuned, if any."""
    network = inflate(ctx, p, clip, temporal=bool(fitted.weights))
    inflation.own(network, fitted.weights)
    return network


def policies(network: Any, p: Any, clip: Clip) -> Policies:
    """Self-attention sees the chosen frames in layers that are wide enough."""
    policy = frame_index(clip.latents.shape[2], p.frame_indices)
    finest = ("down_blocks.0.", f"up_blocks.{len(network.up_blocks) - 1}.")

    def choose(name: str) -> Policy | None:
        if p.least_sc_channel is None:
            return None if name.startswith(finest) else policy
        return policy if network.get_submodule(name).query_dim >= p.least_sc_channel else None

    return choose
