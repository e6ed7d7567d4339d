"""DDIM inversion and prompt editing, each frame on its own: the row every consistency score is compared with.

Denoising Diffusion Implicit Models, arXiv:2010.02502 (ICLR 2021); inversion as in arXiv:2105.05233, section F.

How it works:
1. DDIM inversion of every frame with the source prompt, without guidance.
2. DDIM sampling from the inverted noise with the target prompt and classifier-free guidance.
The network is the image network and its attention sees one frame, so nothing holds the frames together: what a video
method adds is what it does better than this. All frames still share one network call per step.

Differs from the paper or its code:
- `strength` below 1 starts later in the schedule, from the source's own latents there: less change, less flicker.
- A ControlNet (`control_net`, arXiv:2302.05543) can steer every frame.
"""

from models.backbones import sd
from models.conditions import controlnet
from models.context import Context
from models.guidance import cfg
from models.guidance.sampling import sample
from models.inversion import ddim
from models.method import ControlledInput, Method, Paper, ladder
from models.params import VideoParams, param
from models.schedules.ddim import Schedule
from models.types import Clip, Fitted, Latents, Trajectory

VERSION = 1


class FrameByFrame(Method):
    """Per-frame editing from inverted noise."""

    paper = Paper(arxiv="2010.02502", title="Denoising Diffusion Implicit Models", venue="ICLR 2021")
    backbone = sd.V1_5
    adherence = ladder(strength=(0.3, 1.0))
    Inputs = ControlledInput

    class Params(controlnet.Params, ddim.Params, cfg.Params, VideoParams):
        """Inversion, guidance, and how far to go back into the noise."""

        strength: float = param(1.0, gt=0, le=1, stage="edit", widget="slider")
        """Fraction of the schedule that is denoised again; 1 starts from full noise."""
        eta: float = param(0.0, ge=0, le=1, stage="edit", advanced=True)
        """Randomness of the sampler: 0 deterministic, 1 as much as DDPM."""

    invert = ddim.invert

    def edit(self, ctx: Context, p: Params, clip: Clip, fitted: Fitted | None, trajectory: Trajectory) -> Latents:
        """Sample from the inverted noise under the target prompt: `1 c f h w`."""
        backbone = ctx.backbone
        schedule = Schedule.from_config(backbone.scheduler_config)
        text = cfg.encode(backbone, p.prompt, p.negative_prompt, p.guidance_scale)
        timesteps = schedule.timesteps(p.num_inference_steps)
        timesteps = timesteps[len(timesteps) - max(1, round(p.strength * len(timesteps))) :]
        control = controlnet.found(ctx, p, clip, timesteps)
        predict, generator = controlnet.steered(backbone, control, cfg.FRAMES_AT_ONCE), ctx.generator(p.seed)
        latents = ddim.latents_at(schedule, trajectory, timesteps[0], ddim.lag(schedule, p))
        return sample(ctx, p, predict, schedule, timesteps, latents, text, eta=p.eta, generator=generator)
