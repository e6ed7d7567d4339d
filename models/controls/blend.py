"""Local blend: keep the source outside the region that words attend to. arXiv:2208.01626, sec. 4; code of the paper.

A region is found in cross-attention maps: columns of the words summed, averaged over layers and heads, 3×3 maximum,
resized, divided by its own maximum and thresholded. A clip has one region a frame.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from models.controls import cross, words
from models.params import param

VERSION = 1


class Params(cross.Params):
    """Where the edit may happen."""

    blend_source_words: str = param("", stage="edit", max_length=2000, examples=["jeep"])
    """Words or phrases of the source prompt whose place may change, with commas between; none: the whole picture."""
    blend_target_words: str = param("", stage="edit", max_length=2000, examples=["bus"])
    """Words or phrases of the prompt whose place may change; needed together with those of the source."""
    blend_threshold: float = param(0.3, ge=0, le=2, stage="edit", widget="slider")
    """How strongly a place must attend to the words, as a fraction of the strongest; more makes the region smaller."""

    @model_validator(mode="after")
    def blend_words_are_there(self) -> Self:
        """Words must be in their prompt, and both prompts need some or neither."""
        source, target = words.phrases(self.blend_source_words), words.phrases(self.blend_target_words)
        for prompt, named in ((self.source_prompt, source), (self.prompt, target)):
            for phrase in named:
                words.require(prompt, phrase)
        if bool(source) != bool(target):
            raise ValueError("blend_source_words and blend_target_words are given together or not at all")
        return self


MAP_SIDE = 12
"""Maps of fewer than about this many cells a side are too coarse to say where a word is."""


def ratio(height: int, width: int) -> int:
    """Which layers show best where a word is: those whose grid is the latents' (height, width) divided by this.

    At 512 pixels 4, the five 16×16 layers of the published code; for smaller latents 2 or 1.
    """
    for divisor in (4, 2):
        if height * width >= (MAP_SIDE * divisor) ** 2:
            return divisor
    return 1


def grid(queries: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a layer with this many queries, for latents of the given height and width.

    Layers are made by halving, odd sides rounded up.
    """
    while height * width > queries and height * width > 1:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != queries:
        raise ValueError(f"no layer of these latents has {queries} queries")
    return height, width


def attended(maps: Float[Tensor, "... q n"], columns: Float[Tensor, " n"]) -> Float[Tensor, "... q"]:
    """How much each query attends to the chosen tokens (``columns`` is 1 there)."""
    return (maps.float() * columns.to(maps.device)).sum(dim=-1)


def region(
    relevance: Float[Tensor, "b h w"], size: Sequence[int], threshold: float, *, pool: bool = True
) -> Bool[Tensor, "b height width"]:
    """Where relevance, summed or averaged maps of any scale, exceeds this fraction of its maximum, at ``size``."""
    maps = rearrange(relevance, "b h w -> b 1 h w")
    if pool:
        maps = functional.max_pool2d(maps, 3, stride=1, padding=1)
    maps = functional.interpolate(maps, size=tuple(size))[:, 0]
    peak = maps.amax(dim=(1, 2), keepdim=True)
    return maps / peak.clamp(min=torch.finfo(maps.dtype).tiny) > threshold


def keep_outside(
    source: Float[Tensor, "b c f h w"], edited: Float[Tensor, "b c f h w"], inside: Bool[Tensor, "f h w"]
) -> Float[Tensor, "b c f h w"]:
    """The edited latents inside the region, the source's outside."""
    return source + inside.to(edited.dtype) * (edited - source)


def union(
    relevances: Sequence[Float[Tensor, "f h w"]], size: Sequence[int], threshold: float
) -> Bool[Tensor, "f height width"]:
    """The places that are inside any of several regions."""
    return torch.stack([region(relevance, size, threshold) for relevance in relevances]).any(dim=0)
