"""vid2vid-zero: an image model edits a clip, with attention dense over space and time. arXiv:2303.17599 (2023).

Zero-Shot Video Editing Using Off-The-Shelf Image Diffusion Models.

How it works:
1. DDIM inversion with an empty prompt; every frame looks at itself only, GroupNorm takes statistics over the clip.
2. One null embedding a timestep, shared by all frames, is optimised so that the guided source retraces the inversion.
3. Source and edit are denoised together. In three layers every token looks at all tokens of all frames, in the others
   at the first and the previous frame.
4. The edit's cross-attention maps are made from the source's: swapped if the prompts have as many words, else refined.

Differs from the paper or its code:
- Both branches use the optimised null text, in the second half of the steps, as in the code (`null_uncond_ratio`).
- The source's branches are left out once nothing of it is used, which changes no number.
- Latents are the mode of the VAE's posterior; the code's script samples them.
- Refinement keeps the source's maps as long as a swap does; a slip in the code shortens it (`cross_replace_until` 0.4).
- The code's share of self-attention replacement has no effect there and is not offered.
"""

from dataclasses import replace
from typing import Any

from models.attention.dense import dense
from models.attention.installed import Policy
from models.attention.sparse_causal import sparse_causal
from models.backbones import sd
from models.context import Context
from models.controls import cross, pair
from models.controls.attend import Policies, controlled
from models.controls.follow import Follower
from models.controls.record import Layers
from models.guidance import cfg
from models.inversion import ddim, null_text
from models.method import Method, Paper, ladder
from models.params import VideoParams, param
from models.schedules.ddim import Schedule, step
from models.temporal import inflation
from models.tuning import one_shot
from models.types import Clip, Embeds, Fitted, Latents, Trajectory

VERSION = 1


class Vid2VidZero(Method):
    """Zero-shot editing with dense spatio-temporal attention."""

    paper = Paper(
        arxiv="2303.17599",
        title="Zero-Shot Video Editing Using Off-The-Shelf Image Diffusion Models",
        venue="arXiv 2023",
    )
    backbone = sd.V1_5
    adherence = ladder(cross_replace_until=(1.0, 0.2))

    class Params(null_text.Params, cross.Params, VideoParams):
        """Inversion, guidance, attention, and what the edit keeps of the source."""

        source_prompt: str = param(..., min_length=1, max_length=2000, stage="invert", widget="prompt")
        """What the source clip shows; words it shares with the prompt keep their place."""
        inversion_prompt: str = param("", stage="invert", widget="prompt", max_length=2000, advanced=True)
        """Text the inversion is conditioned on; empty as published."""
        null_text_inner_steps: int = param(1, ge=0, le=500, stage="invert", advanced=True)
        """Optimiser updates at each timestep; 0 leaves null-text optimisation out."""
        norm_over_frames: bool = param(True, stage="invert", advanced=True)
        """Whether GroupNorm takes its statistics over the clip (as published) or over each frame."""
        null_uncond_ratio: float = param(-0.5, ge=-1, le=1, stage="edit", advanced=True)
        """Share of the steps that use the optimised null text: the first ones, or, negative, the last ones."""
        dense_attention: bool = param(True, stage="edit", advanced=True)
        """Three layers look at all frames; off, as the others."""
        sparse_causal_attention: bool = param(True, stage="edit", advanced=True)
        """The other layers look at the first and the previous frame; off, at their own."""

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None) -> Trajectory:
        """Invert the clip frame by frame with the empty prompt, then fit the null text to the source prompt."""
        schedule = Schedule.from_config(ctx.backbone.scheduler_config)
        network, predict = inflate(ctx, p, clip)
        source, null, inverted = ctx.backbone.encode_text([p.source_prompt, "", p.inversion_prompt]).split(1)

        def denoise(latents: Latents, t: int) -> Latents:
            return predict(latents, t, inverted)

        walked = ddim.walk(denoise, schedule, clip.latents, p.num_inference_steps, track=ctx.steps)
        if p.null_text_inner_steps == 0 or p.guidance_scale == 1:
            return walked
        one_shot.checkpoint(network, clip.latents, wanted=None)
        fit = null_text.fit(ctx, p, predict, schedule, walked.latents, source, null)
        return replace(walked, null_embeds=fit.null_embeds)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None, trajectory: Trajectory) -> Latents:
        """Denoise source and edit together from the inverted noise: `1 c f h w`."""
        backbone, n = ctx.backbone, p.num_inference_steps
        schedule = Schedule.from_config(backbone.scheduler_config)
        network, predict = inflate(ctx, p, clip)
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        source_text = cfg.encode(backbone, p.source_prompt, "", p.guidance_scale)
        height, width = clip.latents.shape[-2:]
        follower = Follower(Layers(height, width, max_queries=None), cross.cross_edit(backbone.tokenizer, p, n))
        state = pair.Beside(trajectory.latents[-1], trajectory.latents[-1], follower)
        with controlled(network, follower, ("attn2",), policies(p, clip)):
            for i, t in ctx.steps(list(enumerate(schedule.timesteps(n))), state):
                follower.step = i
                null = null_embeds(trajectory, p.null_uncond_ratio, i)
                texts = [with_null(branches, null) for branches in (source_text, text)]
                if follower.needs_source():
                    both = (state.source, texts[0]), (state.latents, texts[1])
                    drift, output = pair.denoise(predict, follower, *both, t, p.guidance_scale)
                    state.source = step(schedule, drift, state.source, level=t, to=t - schedule.stride(n))
                else:
                    output = cfg.guided(predict, state.latents, t, texts[1], p.guidance_scale)
                state.latents = step(schedule, output, state.latents, level=t, to=t - schedule.stride(n))
        return state.latents


def null_embeds(trajectory: Trajectory, ratio: float, step: int) -> Embeds | None:
    """The optimised null text of this step, or None where the empty prompt is used."""
    n = len(trajectory.timesteps)
    used = step <= ratio * n if ratio > 0 else ratio < 0 and step >= (1 + ratio) * n
    return trajectory.null_embeds[step] if used and trajectory.null_embeds is not None else None


def with_null(text: cfg.Branches, null: Embeds | None) -> cfg.Branches:
    """The branches with the optimised null text, when there is one and guidance is on."""
    return text if null is None or text.unconditional is None else text._replace(unconditional=null)


def inflate(ctx: Context, p: Any, clip: Clip) -> tuple[Any, cfg.Denoise]:
    """The image network with statistics over the clip, every frame looking at itself, and predictions with it."""
    frames = clip.latents.shape[2]
    network = inflation.inflate(ctx.backbone.unet, frames, norm_over_frames=p.norm_over_frames, temporal=False)

    def predict(latents: Latents, t: int, text: Embeds) -> Latents:
        return ctx.backbone.predict(latents, t, text, unet=network)

    return network, predict


def policies(p: Any, clip: Clip) -> Policies:
    """What self-attention sees: all frames in the first layer of the way down, of the middle and of the way up."""
    frames = clip.latents.shape[2]
    first = ("down_blocks.0.attentions.0.", "mid_block.attentions.0.", "up_blocks.1.attentions.0.")

    def choose(name: str) -> Policy | None:
        if p.dense_attention and name.startswith(first):
            return dense(frames)
        return sparse_causal(frames) if p.sparse_causal_attention else None

    return choose
