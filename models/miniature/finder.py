"""The finder: a small network that says where the subject is, and from that boxes and tracks of any clip.

Trained on renders only (`train_finder`), as the judge is. A *track* is the subject's place in every frame: the four
sides of the square that has the centre and the area of its mask. A clip's exact track comes from its exact masks.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from models.miniature.boxes import Box, box_of
from models.miniature.recognisers import shrink

FOLDER = Path(__file__).with_name("weights") / "finder"
WIDTHS = (48, 96, 128)
SIDE = 32
"""Side of the masks."""


class Finder(nn.Module):
    """Pictures (n 3 64 64) in 0...1 to logits of the subject's mask (n 1 32 32)."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        """Build the network: widths at 32, 16 and 8 cells a side."""
        super().__init__()
        fine, middle, coarse = widths
        self.entry = nn.Sequential(nn.PixelUnshuffle(2), *_block(12, fine))
        self.middle = nn.Sequential(nn.MaxPool2d(2), *_block(fine, middle), *_block(middle, middle))
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2), *_block(middle, coarse), *_block(coarse, coarse), *_block(coarse, coarse)
        )
        self.join_middle = nn.Sequential(*_block(coarse + middle, middle))
        self.join_fine = nn.Sequential(*_block(middle + fine, fine), nn.Conv2d(fine, 1, 3, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits."""
        fine = self.entry((frames - 0.5).contiguous(memory_format=torch.channels_last))
        middle = self.middle(fine)
        joined = self.join_middle(torch.cat([_twice(self.coarse(middle)), middle], dim=1))
        logits: Tensor = self.join_fine(torch.cat([_twice(joined), fine], dim=1))
        return logits


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _twice(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2.0, mode="nearest")


@lru_cache(maxsize=2)
def load(folder: Path = FOLDER) -> Finder:
    """The trained finder, in float32 and frozen. Raises FileNotFoundError when it is not there."""
    config = json.loads((folder / "config.json").read_text())
    finder = Finder(tuple(config["widths"]))
    finder.load_state_dict(load_file(folder / "model.safetensors"))  # converts fp16 to the network's float32
    return finder.eval().requires_grad_(False)


@torch.no_grad()
def masks(frames: Float[Tensor, "f 3 h w"], finder: Finder | None = None) -> Float[Tensor, "f 1 32 32"]:
    """How likely each cell of each frame (0...1) belongs to the subject."""
    finder = finder or load()
    return torch.cat([finder(shrink(part)).float().sigmoid() for part in torch.split(frames, 128)])


def boxes(frames: Float[Tensor, "f 3 h w"], finder: Finder | None = None) -> list[Box | None]:
    """The subject's box in every frame, or None where none is seen; masks are smoothed up to four times their side."""
    fine = functional.interpolate(masks(frames, finder), scale_factor=4.0, mode="bilinear")[:, 0]
    return [box_of(np.asarray(mask, np.float32)) if bool((mask > 0.5).any()) else None for mask in fine.numpy()]


def track(found: Float[Tensor, "f 1 h w"]) -> Float[Tensor, "f 4"]:
    """The subject's track from its masks (0...1): left, top, right, bottom as fractions of the frame's sides.

    Cells below one half count as outside, so that faint doubts all over the picture do not pull the centre.
    """
    weight = torch.where(found > 0.5, found, 0.0)[:, 0]
    height, width = weight.shape[-2:]
    total = weight.sum((1, 2)).clamp_min(1e-6)
    x = (weight.sum(1) @ ((torch.arange(width) + 0.5) / width)) / total
    y = (weight.sum(2) @ ((torch.arange(height) + 0.5) / height)) / total
    half = (total / (height * width)).sqrt() / 2
    return torch.stack([x - half, y - half, x + half, y + half], dim=1)


def track_correlation(one: Float[Tensor, "f 4"], other: Float[Tensor, "f 4"]) -> float:
    """Pearson's correlation of how two tracks move: all sides and frames, each side's mean over time taken off.

    1 for the same motion, whatever the place and the size of the subject; 0 for a subject that stands still.
    """
    moved, likewise = one - one.mean(0), other - other.mean(0)
    lengths = moved.square().sum().sqrt() * likewise.square().sum().sqrt()
    return float((moved * likewise).sum() / lengths.clamp_min(1e-9))
