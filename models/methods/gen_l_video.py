"""Gen-L-Video: edit clips of any length, in overlapping windows, with prompts along time. arXiv:2305.18264 (2023).

Gen-L-Video: Multi-Text to Long Video Generation via Temporal Co-Denoising.

How it works:
1. The clip is divided into overlapping windows. Within one, every frame looks at the middle frame and at its neighbour
   towards it, and GroupNorm takes its statistics over the window.
2. Inversion and sampling go through all windows at every step; a frame's next latents are the mean over its windows.
3. Each window has its own prompt, so that the text can change along the clip.
4. Optionally (`num_tuning_steps`) queries and added temporal layers first learn the clip, a random window a step.

Differs from the paper or its code:
- A last window ends with the clip; in the code frames after the last full stride would become zero, so it cuts them.
- Any number of prompts for any length; where there are as many windows as published, the division is the published one.
- Tuned are the layers themselves instead of low-rank additions; clip embeddings are, as in released settings, off.
- Of the inversion only its end is kept. Memory of the networks depends on the window, not on the clip.
- The variant with a ControlNet is `control_net` (published: edges, `control_scale` 0.6, `strength` 0.2); it looks at
  each frame by itself. Those with depth or inpainting checkpoints need other inputs and are not part of this method.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from models.attention.anchored import anchored
from models.attention.installed import RoutedAttention
from models.backbones import sd
from models.conditions import controlnet
from models.context import Context
from models.guidance import cfg
from models.inversion import ddim
from models.method import ControlledInput, Method, Paper, ladder
from models.params import VideoParams, param
from models.propagation import windows
from models.resume import Sampling
from models.schedules.ddim import Schedule, step
from models.temporal import inflation
from models.tuning import one_shot
from models.types import Clip, Embeds, Fitted, Latents, Trajectory

VERSION = 1

TRAINED = ("attn1.to_q", "attn2.to_q", "attn_temp")


class GenLVideo(Method):
    """Temporal co-denoising."""

    paper = Paper(
        arxiv="2305.18264",
        title="Gen-L-Video: Multi-Text to Long Video Generation via Temporal Co-Denoising",
        venue="arXiv 2023",
    )
    backbone = sd.V1_5
    adherence = ladder(strength=(0.3, 1.0))
    Inputs = ControlledInput

    class Params(controlnet.Params, one_shot.Params, windows.Params, cfg.Params, VideoParams):
        """Tuning (none by default), windows, inversion, guidance, and prompts along time."""

        source_prompt: str = param("", stage="fit", widget="prompt", max_length=2000)
        """What the source clip shows; the tuning learns it under this text."""
        num_tuning_steps: int = param(0, ge=0, le=20_000, stage="fit", unit="steps", advanced=True)
        """Gradient steps on random windows before inversion; 200 as published, none for the tuning-free variants."""
        norm_over_frames: bool = param(True, stage="fit", advanced=True)
        """Whether GroupNorm takes its statistics over the window (as published) or over each frame."""
        inversion_prompt: str = param("", stage="invert", widget="prompt", max_length=2000, advanced=True)
        """Text the inversion is conditioned on; empty as published."""
        num_inference_steps: int = param(50, ge=1, le=1000, stage="invert", widget="slider")
        """Steps of the whole schedule, for inversion and denoising; `strength` says how many of them are made."""
        strength: float = param(1.0, gt=0, le=1, stage="invert", widget="slider")
        """Fraction of the schedule that is inverted and denoised again; less keeps more of the source."""
        guidance_scale: float = param(12.5, ge=1, le=50, stage="edit", widget="slider")
        """How strongly the prompt pulls; 1 turns guidance off and halves the cost."""
        later_prompts: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] | None = param(
            None, min_length=1, max_length=64, stage="edit", examples=[["a red bear at night"]]
        )
        """Further prompts along time: the clip begins with `prompt` and ends with the last of these."""
        smooth_until: float = param(0.0, ge=0, le=1, stage="edit", advanced=True)
        """Fraction of denoising in which frames of a window are pulled together a little; published: off, or 0.5."""

    def fit(self, ctx: Context, p: Any, clip: Clip) -> Fitted:
        """Tune on random windows of the clip when asked to."""
        if p.num_tuning_steps == 0:
            return Fitted({})
        backbone, generator = ctx.backbone, ctx.generator(p.fit_seed)
        schedule, text = Schedule.from_config(backbone.scheduler_config), backbone.encode_text([p.source_prompt])
        over, network = views(p, clip), inflate(ctx, p, clip, temporal=True)
        start = dict(network.named_parameters())
        names = one_shot.trainable_names(network, TRAINED)
        parameters = inflation.own(network, {name: start[name] for name in names}, trainable=True)
        one_shot.checkpoint(network, clip.latents[:, :, slice(*over[0])], p.gradient_checkpointing)
        predict, choice = predictor(ctx, network), windows.drawn(over, generator)

        def loss() -> Any:
            part = clip.latents[:, :, slice(*next(choice))]
            return one_shot.random_denoising_loss(predict, schedule, part, text, generator)

        losses = one_shot.optimise(ctx, parameters, loss, p, generator)
        return Fitted(inflation.added(network, backbone.unet), losses)

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Trajectory:
        """Invert all windows together; the result holds the first and the last latents."""
        schedule = Schedule.from_config(ctx.backbone.scheduler_config)
        text = ctx.backbone.encode_text([p.inversion_prompt])
        predict = windows.co_denoised(predictor(ctx, tuned(ctx, p, clip, fitted)), views(p, clip))

        def track(steps: Any, state: object) -> Any:
            return ctx.steps(list(islice(steps, made(p))), state)

        def denoise(latents: Latents, t: int) -> Latents:
            return predict(latents, t, text)

        count = p.num_inference_steps
        keep = {schedule.timesteps(count)[-made(p)]}
        return ddim.walk(denoise, schedule, clip.latents, count, keep=keep, track=track)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted, trajectory: Trajectory) -> Latents:
        """Sample all windows together from the inverted noise: `1 c f h w`."""
        schedule, over = Schedule.from_config(ctx.backbone.scheduler_config), views(p, clip)
        prompts = [p.prompt, *(p.later_prompts or ())]
        texts = [cfg.encode(ctx.backbone, prompt, p.negative_prompt, p.guidance_scale) for prompt in prompts]
        network = tuned(ctx, p, clip, fitted)
        chosen = windows.prompt_of(len(over), len(prompts), over[0][1], p.window_stride)
        stride, timesteps = schedule.stride(p.num_inference_steps), schedule.timesteps(p.num_inference_steps)
        timesteps, smooth = timesteps[-made(p) :], int(p.smooth_until * p.num_inference_steps)
        state, control = Sampling(trajectory.latents[-1]), controlnet.found(ctx, p, clip, timesteps)
        for i, t in ctx.steps(list(enumerate(timesteps)), state):

            def move(part: Latents, number: int, t: int = t, i: int = i) -> Latents:
                predict = predictor(ctx, network, control.of(slice(*over[number])))
                output = cfg.guided(predict, part, t, texts[chosen[number]], p.guidance_scale)
                part = step(schedule, output, part, level=t, to=t - stride)
                return windows.smoothed(part) if i < smooth else part

            state.latents = windows.merged(state.latents, over, move)
        return state.latents


def made(p: Any) -> int:
    """How many steps of the schedule are inverted and denoised."""
    steps: int = p.num_inference_steps
    return max(1, round(float(p.strength) * steps))


def views(p: Any, clip: Clip) -> Sequence[windows.Window]:
    """The windows of the clip."""
    return windows.windows(clip.latents.shape[2], p.window, p.window_stride)


def inflate(ctx: Context, p: Any, clip: Clip, *, temporal: bool) -> Any:
    """The network for windows of the clip; a tuned one has temporal layers."""
    frames = min(p.window, clip.latents.shape[2])
    return inflation.inflate(
        ctx.backbone.unet,
        frames,
        attention=RoutedAttention(anchored(frames)),
        norm_over_frames=p.norm_over_frames,
        temporal=temporal,
        generator=ctx.generator(p.fit_seed),
    )


def tuned(ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Any:
    """The network with the weights that were tuned, if any."""
    network = inflate(ctx, p, clip, temporal=bool(fitted.weights))
    inflation.own(network, fitted.weights)
    return network


def predictor(ctx: Context, network: Any, control: controlnet.Control = controlnet.OFF) -> cfg.Denoise:
    """Predictions with the inflated network; stops between windows when asked to."""

    def predict(latents: Latents, t: int, text: Embeds) -> Latents:
        ctx.check()
        return ctx.backbone.predict(latents, t, text, unet=network, control=control)

    return predict
