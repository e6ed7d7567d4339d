"""InFusion: inject features, then keys and values, then fuse attention where words differ. arXiv:2308.00135.

Inject and Attention Fusion for Multi Concept Zero-Shot Text-based Video Editing (ICCV workshop 2023).

How it works:
1. DDIM inversion with the source prompt. Source and edit are then denoised together from the same noise.
2. First steps: features of decoder ResNets move from the edit's towards the source's, which sets the layout.
3. Next steps: the edit's self-attention looks at the source's keys and values.
4. Remaining steps: words both prompts share attend where the source's do. Inside the region that differing words attend
   to, in either branch, self-attention is the edit's own, outside the source's.

Differs from the paper or its code (which was not published; inferred from figure and abstract):
- Inferred: lengths of the phases, which layers (ResNets of two decoder blocks, attention up to 32×32), the strength of
  injection, the threshold of the region, cross-frame attention to the first and the previous frame. All are parameters.
- Inferred: features, keys and values go to the edit's unconditional branch too (as in Plug-and-Play and MasaCtrl); maps
  are fused in the conditional one (as in Prompt-to-Prompt). The source is not guided: it retraces the inversion.
- A concept of one's own comes with a checkpoint tuned to it; it is not loaded beside another.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from models.attention.frame_index import Frame, frame_index
from models.backbones import sd
from models.context import Context
from models.controls import pair, phases, words
from models.controls.attend import Policies, controlled, routed
from models.controls.follow import Follower
from models.controls.record import MAX_QUERIES, Layers, Watch
from models.features import difference
from models.guidance import cfg
from models.inversion import ddim
from models.method import Method, Paper
from models.params import VideoParams, param
from models.schedules.ddim import Schedule, step
from models.temporal import inflation
from models.tuning import paths
from models.types import Clip, Fitted, Latents, Trajectory

VERSION = 1


class InFusion(Method):
    """Injection and attention fusion without training."""

    paper = Paper(
        arxiv="2308.00135",
        title="InFusion: Inject and Attention Fusion for Multi Concept Zero-Shot Text-based Video Editing",
        venue="ICCV 2023 workshops",
    )
    backbone = sd.V1_5

    class Params(cfg.Params, VideoParams):
        """Inversion, guidance, and what the edit keeps of the source in each phase."""

        source_prompt: str = param(..., min_length=1, max_length=2000, stage="invert", widget="prompt")
        """What the source clip shows; words it shares with the prompt keep their place."""
        num_inference_steps: int = param(50, ge=1, le=1000, stage="invert", widget="slider")
        """Steps of the inversion and of denoising."""
        frame_indices: tuple[Frame, ...] = param(("first", -1), max_length=8, stage="invert", advanced=True)
        """Frames whose keys and values every frame sees: first, mid, last, or relative ones (-1 the one before)."""
        norm_over_frames: bool = param(False, stage="invert", advanced=True)
        """Whether GroupNorm takes its statistics over the clip or over each frame."""
        num_feature_steps: int = param(5, ge=0, le=1000, stage="edit", unit="steps")
        """Steps of the first phase, 4 to 10 of 50: features move towards the source's."""
        feature_strength: float = param(1.0, ge=0, le=1, stage="edit", advanced=True)
        """How far features move; 1 replaces them."""
        feature_blocks: tuple[Annotated[int, Field(ge=0, le=3)], ...] = param(
            (1, 2), max_length=4, stage="edit", advanced=True
        )
        """Blocks of the decoder whose features move, 0 the coarsest."""
        num_attention_steps: int = param(15, ge=0, le=1000, stage="edit", unit="steps")
        """Steps of the second phase, 15 to 20 of 50: self-attention looks at the source's keys and values."""
        fuse_cross_attention: bool = param(True, stage="edit", advanced=True)
        """In the last phase, shared words attend where the source's do."""
        fuse_self_attention: bool = param(True, stage="edit", advanced=True)
        """In the last phase, self-attention is the source's outside the region of differing words."""
        source_words: str = param("", stage="edit", max_length=2000, advanced=True)
        """Words of the source prompt that make the region, with commas between; left out, those the prompt lacks."""
        target_words: str = param("", stage="edit", max_length=2000, advanced=True)
        """Words of the prompt that make the region; left out, those the source prompt lacks."""
        mask_threshold: float = param(0.3, ge=0, le=2, stage="edit", widget="slider")
        """How strongly a place must attend to the words, as a fraction of the strongest; more: a smaller region."""
        max_attention_queries: int = param(MAX_QUERIES, ge=1, stage="edit", advanced=True)
        """Attention layers with more places than this keep their own attention."""

        @model_validator(mode="after")
        def words_are_there(self) -> Self:
            """Words that are named must be in their prompt."""
            for prompt, listed in ((self.source_prompt, self.source_words), (self.prompt, self.target_words)):
                for phrase in words.phrases(listed):
                    words.require(prompt, phrase)
            return self

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None) -> Trajectory:
        """Invert the clip under the source prompt."""
        network, policies = inflate(ctx, p, clip)
        predict, text = paths.denoiser(ctx.backbone, network), ctx.backbone.encode_text([p.source_prompt])
        schedule = Schedule.from_config(ctx.backbone.scheduler_config)

        def denoise(latents: Latents, t: int) -> Latents:
            return predict(latents, t, text)

        with routed(network, policies):
            return ddim.walk(denoise, schedule, clip.latents, p.num_inference_steps, keep=(), track=ctx.steps)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted | None, trajectory: Trajectory) -> Latents:
        """Denoise source and edit together from the inverted noise: `1 c f h w`."""
        backbone, n = ctx.backbone, p.num_inference_steps
        schedule = Schedule.from_config(backbone.scheduler_config)
        network, policies = inflate(ctx, p, clip)
        predict, control = paths.denoiser(backbone, network), control_of(backbone.tokenizer, p, clip)
        source_text = cfg.Branches(None, backbone.encode_text([p.source_prompt]))
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        state = pair.Beside(trajectory.latents[-1], trajectory.latents[-1], control.follower)
        with controlled(network, control, ("attn1", "attn2"), policies):
            for i, t in ctx.steps(list(enumerate(schedule.timesteps(n))), state):
                begin(control.follower, i, p.mask_threshold)
                moves = (t, t - schedule.stride(n))
                if not (i < p.num_feature_steps or control.borrows() or control.follower.needs_source()):
                    output = cfg.guided(predict, state.latents, t, text, p.guidance_scale)
                    state.latents = step(schedule, output, state.latents, level=moves[0], to=moves[1])
                    continue
                with injected(network, p, i):
                    both = ((state.source, source_text), (state.latents, text))
                    outputs = pair.denoise(predict, control.follower, *both, t, p.guidance_scale)
                state.source, state.latents = (
                    step(schedule, output, z, level=moves[0], to=moves[1])
                    for output, z in zip(outputs, (state.source, state.latents), strict=True)
                )
        return state.latents


def injected(network: Any, p: Any, i: int) -> AbstractContextManager[None]:
    """Features move towards the source's, in the first phase."""
    if i >= p.num_feature_steps:
        return nullcontext()
    branches = 2 if p.guidance_scale == 1 else 3  # unconditional, source, edit
    names = difference.residual_layers(network, p.feature_blocks)
    return difference.towards_source(network, names, branches=branches, source=branches - 2, amount=p.feature_strength)


def begin(follower: Follower, i: int, threshold: float) -> None:
    """Begin a step: the region is where the differing words attended to so far."""
    follower.step = i
    watches = [watch for watch in (follower.source_watch, follower.edit_watch) if watch is not None]
    if watches and follower.copies_rows():
        follower.inside = (phases.joint_relevance(watches), threshold)


def control_of(tokenizer: Any, p: InFusion.Params, clip: Clip) -> phases.Phased:
    """The control of the edit. Maps are fused from the second step on: before, no word has attended to anything."""
    n, first = p.num_inference_steps, min(p.num_feature_steps, p.num_inference_steps)
    last = min(first + p.num_attention_steps, n)
    height, width = clip.latents.shape[-2:]
    layers = Layers(height, width, p.max_attention_queries)
    source, target = words.tokenise(tokenizer, p.source_prompt), words.tokenise(tokenizer, p.prompt)
    cross = phases.shared_words(source, target, n, last if p.fuse_cross_attention else n)
    follower = Follower(layers, cross, (max(last, 1), n) if p.fuse_self_attention else (0, 0), watch_edited=False)
    if p.fuse_self_attention:
        left, new = phases.different_words(source, target)
        follower.source_watch = Watch(layers, words.columns(source, p.source_words) if p.source_words else left)
        follower.edit_watch = Watch(layers, words.columns(target, p.target_words) if p.target_words else new)
    return phases.Phased(follower, (first, last))


def inflate(ctx: Context, p: Any, clip: Clip) -> tuple[Any, Policies]:
    """The network for clips of this length, and what its self-attention sees."""
    frames = clip.latents.shape[2]
    network = inflation.inflate(ctx.backbone.unet, frames, norm_over_frames=p.norm_over_frames, temporal=False)
    policy = frame_index(frames, p.frame_indices)
    return network, lambda layer: policy
