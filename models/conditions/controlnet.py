"""ControlNet: a picture of every frame steers the denoiser. arXiv:2302.05543.

A ControlNet is a trained copy of a denoiser's encoder. It sees the latents and a picture (edges, depth) and puts out
what is added to the denoiser's skip connections and its middle (sec. 3.2). It looks at one frame at a time, also beside
a denoiser that takes clips. By default both branches of guidance are steered, as published methods do; *guess mode*
leaves the unconditional one alone and steers the shallow layers less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from einops import rearrange, repeat
from pydantic import model_validator
from torch import Tensor, nn

from models import video
from models.backbones import companions
from models.backbones.backbone import Backbone, Residuals, config_of
from models.conditions import depth, edges
from models.context import Context
from models.errors import InvalidInput, InvalidParams, MissingCondition
from models.params import Checkpoint, param
from models.params import Params as BaseParams
from models.types import Clip, Embeds, Frames, Latents

Condition = Literal["canny", "lineart", "softedge", "depth", "given"]
SHAPE = ("block_out_channels", "layers_per_block", "cross_attention_dim")
"""What a ControlNet must have in common with the denoiser."""


class Params(BaseParams):
    """Steering by a ControlNet: none unless one is named."""

    control_net: Checkpoint | None = param(None, stage="edit", advanced=True)
    """ControlNet that steers every frame, as `lllyasviel/control_v11p_sd15_lineart`; left out, none does."""
    condition: Condition = param("canny", stage="edit", advanced=True)
    """What the ControlNet sees, as it was trained: found in the clip (depth by `depth_estimator`), or `given`."""
    control_scale: float = param(1.0, ge=0, le=2, stage="edit", advanced=True)
    """How strongly the ControlNet steers; 0 leaves it out."""
    control_start: float = param(0.0, ge=0, le=1, stage="edit", advanced=True)
    """Fraction of denoising after which it begins."""
    control_end: float = param(1.0, ge=0, le=1, stage="edit", advanced=True)
    """Fraction of denoising after which it ends."""
    control_guess: bool = param(False, stage="edit", advanced=True)
    """Guess mode: only the prompt's branch is steered, shallow layers less."""
    canny_low: int = param(100, ge=0, le=1000, stage="edit", advanced=True)
    """canny: weaker slopes are no edge."""
    canny_high: int = param(200, ge=0, le=1000, stage="edit", advanced=True)
    """canny: stronger slopes are an edge; those between are where they go on from one."""
    depth_estimator: Checkpoint | None = param(None, stage="edit", advanced=True)
    """depth: the network that finds it, as `Intel/dpt-hybrid-midas`."""
    depth_normalisation: depth.Normalisation = param("clip", stage="edit", advanced=True)
    """depth: black and white are the farthest and nearest of the whole clip, or of each frame."""

    @model_validator(mode="after")
    def _can_be_steered(self) -> Self:
        if self.control_start > self.control_end:
            raise ValueError(f"control_start {self.control_start} lies after control_end {self.control_end}")
        if self.control_net and self.condition == "depth" and not self.depth_estimator:
            raise ValueError("condition 'depth' needs a depth_estimator, as Intel/dpt-hybrid-midas")
        return self

    def companions(self) -> tuple[str, ...]:
        """The ControlNet and the estimator of depth, as far as they are in use."""
        if not self.control_net or self.control_scale == 0:
            return ()
        deep = self.depth_estimator if self.condition == "depth" else None
        return (deep, self.control_net) if deep else (self.control_net,)

    def ready(self, backbone: Any, inputs: Any) -> None:
        """Load them, and check that the ControlNet fits the checkpoint and has what it is to see."""
        if self.companions() and self.condition == "given" and inputs.control_video is None:
            hint = "add it to the request: input.files.control_video, or choose another condition"
            raise MissingCondition("condition 'given' needs the input 'control_video'", hint=hint)
        *estimators, network = self.companions() or (None,)
        for reference in estimators:
            companions.load(backbone, str(reference), companions.DEPTH_ESTIMATORS)
        if network is not None:
            check(backbone, companions.load(backbone, network, companions.CONTROL_NETS))


def check(backbone: Backbone, found: companions.Companion) -> None:
    """Raise InvalidParams unless this ControlNet was made for denoisers of the checkpoint's shape."""
    its, own = config_of(found.network), config_of(backbone.unet)
    pairs = {name: (_plain(its[name]), _plain(own.get(name))) for name in SHAPE}
    pairs["latent channels"] = (its["in_channels"], config_of(backbone.vae)["latent_channels"])
    pairs["pixels of a latent"] = (2 ** (len(its["conditioning_embedding_out_channels"]) - 1), backbone.vae_factor)
    wrong = [f"{name} {mine} instead of {theirs}" for name, (mine, theirs) in pairs.items() if mine != theirs]
    if not wrong:
        return
    message = f"control_net {found.reference} is not made for checkpoint {backbone.checkpoint}: {', '.join(wrong)}"
    raise InvalidParams(
        message,
        hint="take a ControlNet that was trained for the checkpoint's family, or another checkpoint",
        details={"errors": [{"pointer": "#/params/control_net", "code": "mismatch", "message": message}]},
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Control:
    """Steers a denoiser (see `Backbone.predict`) with a picture of every frame, or does not: `OFF`.

    `pictures` are ``f 3 h w``, at the frames' size; `active` the timesteps at which it steers; `unsteered` how many
    branches at the front it leaves alone. With `by_frame` frames are the batch of one-frame clips.
    """

    network: nn.Module | None = None
    pictures: Tensor | None = None
    scale: float = 1.0
    active: frozenset[int] = frozenset()
    guess: bool = False
    unsteered: int = 0
    by_frame: bool = False

    def of(self, frames: slice | Sequence[int]) -> "Control":
        """For these frames of the clip, in this order."""
        return self if self.pictures is None else replace(self, pictures=self.pictures[frames])

    def through(self, change: Callable[[nn.Module], nn.Module]) -> "Control":
        """With another network in place of this one: its clone, inflated."""
        return self if self.network is None else replace(self, network=change(self.network))

    def unconditional(self) -> "Control":
        """For a call that holds the unconditional branch alone: guess mode does not steer it."""
        return OFF if self.guess else self

    def __call__(self, latents: Latents, times: Tensor, embeds: Embeds) -> Residuals | None:
        """Residuals for one call of the denoiser on ``b c f h w``; None at timesteps it is not active."""
        if self.network is None or self.pictures is None or int(times[0]) not in self.active:
            return None
        batch, _, count = latents.shape[:3]
        shown = len(self.pictures)
        if shown != (batch if self.by_frame else count):
            raise ValueError(f"{shown} pictures for {batch} x {count} frames: say which with Control.of")
        first = batch - 1 if self.guess and not self.by_frame else self.unsteered
        pattern = "f c h w -> f c h w" if self.by_frame else "f c h w -> (b f) c h w"
        repeats = {} if self.by_frame else {"b": batch - first}
        like = next(self.network.parameters())
        down, mid = self.network(
            rearrange(latents[first:], "b c f h w -> (b f) c h w").to(like),
            times[first:].repeat_interleave(count),
            encoder_hidden_states=repeat(embeds[first:], "b n d -> (b f) n d", f=count).to(like),
            controlnet_cond=repeat(self.pictures.to(like), pattern, **repeats),
            conditioning_scale=self.scale,
            guess_mode=self.guess,
            return_dict=False,
        )
        rows = first * count
        return Residuals(tuple(_led(part, rows, latents) for part in down), _led(mid, rows, latents), len(mid))


OFF = Control()
"""Steers nothing."""


def _led(part: Tensor, rows: int, like: Tensor) -> Tensor:
    """Residuals behind so many rows of none."""
    return torch.cat([part.new_zeros(rows, *part.shape[1:]), part]).to(like.dtype) if rows else part.to(like.dtype)


def found(ctx: Context, p: Params, clip: Clip, timesteps: Sequence[int], *, unsteered: int = 0) -> Control:
    """What steers a denoising run over these timesteps; `OFF` when no ControlNet is named or its scale is 0."""
    if not p.companions():
        return OFF
    network = companions.load(ctx.backbone, str(p.control_net), companions.CONTROL_NETS).network
    pictures = seen(ctx, p, clip).to(next(network.parameters()))
    total = len(timesteps)
    inside = (t for i, t in enumerate(timesteps) if i / total >= p.control_start and (i + 1) / total <= p.control_end)
    return Control(network, pictures, p.control_scale, frozenset(inside), p.control_guess, unsteered)


def seen(ctx: Context, p: Any, clip: Clip) -> Frames:
    """The condition of every frame, ``f 3 h w`` in 0…1; what is found in the clip is cached for all methods."""
    if p.condition == "given":
        return given(ctx, p, clip)
    if p.condition == "canny":
        return ctx.condition(edges.canny(p.canny_low, p.canny_high), clip, {"low": p.canny_low, "high": p.canny_high})
    if p.condition == "depth":
        network = companions.load(ctx.backbone, str(p.depth_estimator), companions.DEPTH_ESTIMATORS)
        about = {"network": network.digest, "normalisation": p.depth_normalisation}
        return ctx.condition(depth.estimator(network, p.depth_normalisation), clip, about)
    return ctx.condition({"lineart": edges.lineart, "softedge": edges.softedge}[p.condition], clip)


def given(ctx: Context, p: Any, clip: Clip) -> Frames:
    """The caller's pictures, cut and sized like the clip; InvalidInput when they are not as many as its frames."""
    height, width = clip.frames.shape[-2:]
    footage = video.read(
        ctx.inputs["control_video"].path,  # type: ignore[union-attr]  # one file, as `ready` has seen
        start_seconds=p.start_seconds,
        end_seconds=p.end_seconds,
        fps=clip.fps,
        max_frames=p.max_frames,
        width=width,
        height=height,
        crop=p.resize == "crop",
        native_size=ctx.backbone.native_size,
    )
    if len(footage.frames) != len(clip.frames):
        message = f"control_video has {len(footage.frames)} frames where the clip has {len(clip.frames)}"
        raise InvalidInput(message, hint="give a clip with a picture for every frame, at the same frame rate")
    return footage.frames


def steered(backbone: Backbone, control: Control, frames_at_once: int) -> Callable[[Latents, int, Embeds], Latents]:
    """`Backbone.predict` on whole clips under control, so many frames in a call: each is looked at by itself."""

    def predict(latents: Latents, t: int, embeds: Embeds) -> Latents:
        spans = [slice(begin, begin + frames_at_once) for begin in range(0, latents.shape[2], frames_at_once)]
        return torch.cat(
            [backbone.predict(latents[:, :, span], t, embeds, control=control.of(span)) for span in spans], dim=2
        )

    return predict
