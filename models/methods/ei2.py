"""EI²: tune an inflated image model whose new layers do not shift its features. arXiv:2305.17431 (NeurIPS 2023).

Towards Consistent Video Editing with Text-to-Image Diffusion Models.

How it works:
1. Self-attention becomes fine-coarse: a frame sees all of its own tokens and those of all others at half the sides.
2. Between self- and cross-attention lies attention over frames that only centres its input (LayerNorm also rescales it,
   which shifts what the image model expects) and whose output projection cannot enlarge the variance.
3. Query projections and the new layers are tuned to denoise this clip under its own prompt.
4. DDIM inversion with the tuned network and the empty prompt, then DDIM sampling with the target prompt and guidance.

Differs from the paper or its code (which was not published; inferred from figures):
- Inferred: which weights learn and all constants, as in Tune-A-Video.
- Open in the text and therefore parameters: the axis of the mean (`centring_axis`), how the output projection is held
  (`output_norm`), how other frames are made coarse (`coarse`).
- GroupNorm takes its statistics over the clip as in the published inflated networks (`norm_over_frames`).
"""

from typing import Annotated, Any

from pydantic import Field

from models.attention.fine_coarse import Coarse, fine_coarse
from models.attention.installed import RoutedAttention
from models.backbones import sd
from models.context import Context
from models.guidance import cfg
from models.guidance.sampling import sample
from models.inversion import ddim
from models.method import Method, Paper
from models.params import VideoParams, param
from models.schedules.ddim import Schedule
from models.temporal import inflation
from models.temporal.shift_restricted import Axis, Norm, add_stam
from models.tuning import inflated, one_shot, paths
from models.types import Clip, Fitted, Latents, Trajectory

VERSION = 1


class EI2(Method):
    """One-shot tuning with shift-restricted temporal and fine-coarse frame attention."""

    paper = Paper(
        arxiv="2305.17431",
        title="Towards Consistent Video Editing with Text-to-Image Diffusion Models",
        venue="NeurIPS 2023",
    )
    backbone = sd.V1_5

    class Params(one_shot.Params, cfg.Params, VideoParams):
        """The new layers, tuning, inversion and guidance."""

        source_prompt: str = param("", stage="fit", widget="prompt", max_length=2000)
        """What the source clip shows; the network is tuned to denoise the clip under it."""
        trainable_modules: tuple[Annotated[str, Field(min_length=1)], ...] = param(
            ("attn1.to_q", "attn2.to_q", "stam"), min_length=1, stage="fit", advanced=True
        )
        """Which modules learn: those whose path ends with one of these."""
        coarse: Coarse = param("average", stage="fit", advanced=True)
        """Other frames are averaged over 2×2 places, or every second place is taken, or they are not seen."""
        centring_axis: Axis = param("channel", stage="fit", advanced=True)
        """The mean that is taken off is that of a token's channels, or that of a channel's frames."""
        output_norm: Norm = param("spectral", stage="fit", advanced=True)
        """What is held to 1 in the output projection: its largest singular value, the length of its rows, nothing."""
        norm_over_frames: bool = param(True, stage="fit", advanced=True)
        """Whether GroupNorm takes its statistics over the clip or over each frame."""
        inversion_prompt: str = param("", stage="invert", widget="prompt", max_length=2000, advanced=True)
        """Text the inversion is conditioned on."""
        num_inversion_steps: int = param(50, ge=1, le=1000, stage="invert", advanced=True)
        """Steps from clean to noise."""
        guidance_scale: float = param(12.5, ge=1, le=50, stage="edit", widget="slider")
        """How strongly the prompt pulls; 1 turns guidance off and halves the cost."""
        eta: float = param(0.0, ge=0, le=1, stage="edit", advanced=True)
        """Randomness of the sampler: 0 deterministic, 1 as much as DDPM."""

    def fit(self, ctx: Context, p: Any, clip: Clip) -> Fitted:
        """Tune on the clip; the result holds the tuned weights and the added layers."""
        return inflated.tune(ctx, p, inflate(ctx, p, clip), clip.latents, p.source_prompt, p.trainable_modules)

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> Trajectory:
        """Invert the clip with the tuned network."""
        backbone = ctx.backbone
        predict, text = tuned(ctx, p, clip, fitted), backbone.encode_text([p.inversion_prompt])

        def denoise(latents: Latents, t: int) -> Latents:
            return predict(latents, t, text)

        schedule = Schedule.from_config(backbone.scheduler_config)
        return ddim.walk(denoise, schedule, clip.latents, p.num_inversion_steps, keep=(), track=ctx.steps)

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Fitted, trajectory: Trajectory) -> Latents:
        """Sample from the inverted noise with the tuned network under the target prompt: `1 c f h w`."""
        backbone, generator = ctx.backbone, ctx.generator(p.seed)
        schedule = Schedule.from_config(backbone.scheduler_config)
        timesteps = schedule.timesteps(p.num_inference_steps)
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        predict = tuned(ctx, p, clip, fitted)
        latents = ddim.start(schedule, trajectory, timesteps[0])
        return sample(ctx, p, predict, schedule, timesteps, latents, text, eta=p.eta, generator=generator)


def inflate(ctx: Context, p: Any, clip: Clip) -> Any:
    """The network before tuning, for clips of this length and size."""
    frames, height, width = clip.latents.shape[2:]
    attention = RoutedAttention(fine_coarse(frames, height, width, p.coarse))
    network = inflation.inflate(
        ctx.backbone.unet, frames, attention=attention, norm_over_frames=p.norm_over_frames, temporal=False
    )
    add_stam(network, frames, ctx.generator(p.fit_seed), axis=p.centring_axis, norm=p.output_norm)
    return network


def tuned(ctx: Context, p: Any, clip: Clip, fitted: Fitted) -> cfg.Denoise:
    """Predictions of the network with the tuned weights."""
    network = inflate(ctx, p, clip)
    inflation.own(network, fitted.weights)
    return paths.denoiser(ctx.backbone, network)
