"""The judge: a small classifier that says what a picture of the miniature world shows.

Trained on renders only (`train_judge`), so what it says of generated pictures is a second opinion.
"""

import json
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from models.miniature.recognisers import HEADS, features, shrink, trunk
from models.miniature.scene import ATTRIBUTES

FOLDER = Path(__file__).with_name("weights") / "judge"
WIDTHS = (80, 96, 160, 192)


class Judge(nn.Module):
    """Pictures (n 3 64 64) in 0...1 to one row of logits per attribute: {name: (n values)}."""

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        """Build the network; `widths` are the trunk's."""
        super().__init__()
        self.trunk = trunk(widths)
        self.heads = nn.ModuleDict({head: nn.Linear(2 * widths[-1], len(ATTRIBUTES[head])) for head in HEADS})

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Return the logits of every attribute."""
        seen = features(self.trunk, frames)
        return {head: layer(seen) for head, layer in self.heads.items()}


@lru_cache(maxsize=4)
def load(folder: Path = FOLDER) -> Judge:
    """The trained judge, in float32 and frozen. Raises FileNotFoundError when it is not there."""
    config = json.loads((folder / "config.json").read_text())
    judge = Judge(tuple(config["widths"]))
    stored = load_file(folder / "model.safetensors")
    judge.load_state_dict(stored)  # converts fp16 to the network's float32
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def classify(frames: Float[Tensor, "f c h w"], judge: Judge | None = None) -> dict[str, list[str]]:
    """What each frame (0...1) shows: for every one of `HEADS`, a word per frame."""
    judge = judge or load()
    parts = [judge(shrink(part)) for part in torch.split(frames, 128)]
    return {head: [ATTRIBUTES[head][int(i)] for part in parts for i in part[head].argmax(1)] for head in HEADS}
