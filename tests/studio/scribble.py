"""Scribble: a method made for this test that takes everything that can be drawn. arXiv:2010.02502 (ICLR 2021).

How it works: it repeats the clip, white where the masks are, and tells what it was given.
"""

from typing import Annotated, Any

import torch
from pydantic import Field

from models.backbones import sd
from models.conditions.grounding import Boxes, Fraction
from models.context import Context
from models.guidance import cfg
from models.method import ImageFile, Method, Paper, VideoInput, asset
from models.params import VideoParams, param
from models.types import Clip, Latents
from models.video.picture import read_picture

Drag = tuple[Fraction, Fraction, Fraction, Fraction]
Path = Annotated[tuple[tuple[Fraction, Fraction], ...], Field(min_length=2, max_length=4)]


class Scribble(Method):
    """Everything that is drawn."""

    paper = Paper(arxiv="2010.02502", title="None", venue="ICLR 2021")
    backbone = sd.V1_5

    class Inputs(VideoInput):
        """Masks."""

        mask: ImageFile = asset(stage="edit", widget="mask")
        """Where the clip may change."""
        masks: tuple[ImageFile, ...] = asset((), stage="edit", widget="mask", max_length=9)
        """Where it may change over time."""

    class Params(cfg.Params, VideoParams):
        """Places."""

        boxes: Boxes = param(..., stage="edit", widget="boxes", labels=("phrases",))
        """Where things are."""
        phrases: tuple[Annotated[str, Field(max_length=50)], ...] = param(..., min_length=1, stage="edit")
        """What is in each box."""
        handles: tuple[Drag, ...] = param((), stage="edit", widget="points", keyframe="handle_frame", max_length=8)
        """What is dragged where."""
        handle_frame: int = param(0, ge=0, stage="edit")
        """The frame the points are set on."""
        ways: tuple[Path, ...] = param((), stage="edit", widget="trajectory")
        """Where things go."""

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: None, trajectory: None) -> Latents:
        """Tell what came, and give the clip back."""
        height, width = clip.frames.shape[-2:]
        files = [ctx.inputs["mask"], *ctx.inputs.get("masks", ())]
        masks = torch.stack([read_picture(file.path, width=width, height=height)[0] for file in files])
        white = " ".join(f"{share:.2f}" for share in (masks > 0.5).float().mean((1, 2)).tolist())
        ctx.warn("boxes", f"{len(p.boxes)} boxes: {', '.join(p.phrases)}")
        ctx.warn("masks", f"{len(files)} masks, white {white}")
        ctx.warn("points", f"{len(p.handles)} points on frame {p.handle_frame}, {len(p.ways)} paths")
        return clip.latents
