"""Grounding: phrases with boxes steer where things are, through the gated layers of GLIGEN. arXiv:2301.07093.

A grounded checkpoint is a Stable Diffusion UNet with a gated attention layer in every transformer block and a network
that makes tokens of boxes and phrases (diffusers: ``attention_type="gated"``). Some take the masked source as five more
input channels. Boxes are (left, top, right, bottom), fractions of width and height.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.backbone import Backbone, config_of
from models.errors import InvalidParams
from models.types import Latents

VERSION = 1

MAX_OBJECTS = 30
"""Tokens a frame: GLIGEN was trained with so many, unused ones hold learned null features."""

Fraction = Annotated[float, Field(ge=0, le=1)]


def _has_area(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError("a box is (left, top, right, bottom) with left < right and top < bottom")
    return box


Box = Annotated[tuple[Fraction, Fraction, Fraction, Fraction], AfterValidator(_has_area)]
Boxes = Annotated[
    tuple[Annotated[tuple[Box, ...], Field(min_length=1)], ...],
    Field(min_length=1, max_length=MAX_OBJECTS, examples=[[[[0.2, 0.2, 0.8, 0.9]]]]),
]
"""Objects, each with the boxes it has over the clip: one, or several spread evenly."""


def per_frame(boxes: Sequence[Sequence[Box]], frames: int) -> Float[Tensor, "f m 4"]:
    """The boxes of every object in every frame: those given are spread evenly over the clip, and linear between.

    InvalidParams when an object has more boxes than the clip has frames.
    """
    most = max(map(len, boxes))
    if most > frames:
        raise InvalidParams(f"boxes holds {most} boxes for one object, but the clip has {frames} frames")
    tracks = []
    for given in boxes:
        known = torch.tensor(list(given), dtype=torch.float32)  # k 4
        if len(known) == 1 or frames == 1:
            tracks.append(known[:1].expand(frames, 4))
            continue
        places = torch.linspace(0, len(known) - 1, frames)
        before = places.floor().long().clamp(max=len(known) - 2)
        tracks.append(torch.lerp(known[before], known[before + 1], (places - before)[:, None]))
    return torch.stack(tracks, dim=1)


def outside(boxes: Float[Tensor, "f m 4"], size: Sequence[int]) -> Float[Tensor, "f 1 h w"]:
    """1 outside all boxes of a frame, 0 inside; edges are cut down to whole cells (height, width), the end excluded."""
    mask = torch.ones(len(boxes), 1, size[0], size[1])
    cells = (boxes * torch.tensor([size[1], size[0], size[1], size[0]])).int()
    for frame, tracks in enumerate(cells.tolist()):
        for left, top, right, bottom in tracks:
            mask[frame, :, top:bottom, left:right] = 0
    return mask


@dataclass(frozen=True)
class Objects:
    """What is where, for every frame: boxes, phrase features, and which of the slots are in use."""

    boxes: Float[Tensor, "f m 4"]
    positive_embeddings: Float[Tensor, "f m d"]
    masks: Float[Tensor, "f m"]

    def nothing(self) -> "Objects":
        """The same slots, none in use: the unconditional branch."""
        return replace(self, masks=torch.zeros_like(self.masks))


def objects(backbone: Backbone, boxes: Float[Tensor, "f m 4"], phrases: Sequence[str]) -> Objects:
    """Boxes with the pooled text features of their phrases, padded to `MAX_OBJECTS`; a slot without phrase is empty."""
    tokens = backbone.tokenizer(
        list(phrases),
        padding="max_length",
        max_length=backbone.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    pooled: Tensor = backbone.text_encoder(tokens.input_ids.to(backbone.device)).pooler_output  # m d
    padding = MAX_OBJECTS - len(phrases)
    used = torch.tensor([1.0 if phrase else 0.0 for phrase in phrases])
    frames = len(boxes)
    return Objects(
        functional.pad(boxes, (0, 0, 0, padding)).to(pooled),
        functional.pad(pooled, (0, 0, 0, padding)).expand(frames, -1, -1),
        functional.pad(used, (0, padding)).expand(frames, -1).to(pooled),
    )


def is_grounded(unet: nn.Module) -> bool:
    """Whether the network has gated layers for phrases and boxes."""
    return config_of(unet).get("attention_type") == "gated"


def masked_source(unet: nn.Module, clean: Latents, mask: Float[Tensor, "f 1 h w"]) -> Tensor | None:
    """The five more channels of an inpainting checkpoint, ``f 5 h w``: the source outside the boxes, and the mask."""
    if int(config_of(unet)["in_channels"]) != clean.shape[1] + 5:
        return None
    mask = mask.to(clean)
    return torch.cat([clean[0].transpose(0, 1) * mask, mask], dim=1)


class Grounded(nn.Module):
    """A network with what is where: called as the image network is, on one branch of all frames."""

    def __init__(self, unet: nn.Module, where: Objects | None, more: Tensor | None) -> None:
        """Ground ``unet`` (not changed); ``more`` are further input channels (``f 5 h w``)."""
        super().__init__()
        self.unet, self.where, self.more = unet, where, more

    def nowhere(self) -> "Grounded":
        """The unconditional branch: the same network and channels, all object slots empty."""
        return Grounded(self.unet, None if self.where is None else self.where.nothing(), self.more)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
    ) -> Any:
        """Predict for frames ``f c h w``."""
        options: dict[str, Any] = {}
        if mid_block_additional_residual is not None:
            options["down_block_additional_residuals"] = down_block_additional_residuals
            options["mid_block_additional_residual"] = mid_block_additional_residual
        if self.where is not None:
            given = {name: value.to(sample) for name, value in vars(self.where).items()}
            options["cross_attention_kwargs"] = {"gligen": given}
        if self.more is not None:
            sample = torch.cat([sample, self.more.to(sample)], dim=1)
        return self.unet(
            sample, timestep, encoder_hidden_states=encoder_hidden_states, return_dict=return_dict, **options
        )
