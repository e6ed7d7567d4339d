"""A contact sheet per method: of the first clip of every kind the source, the exact edit, and the method's edit."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from models.bench.cases import EDIT_KINDS, cases, rendered
from models.types import Frames

SHOWN = (0, 2, 4, 7)
SIDE = 64


def keep(folder: Path, name: str, kind: str, frames: Frames) -> None:
    """Remember the shown frames of an edit, side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    _picture(_strip(frames)).save(folder / f"{name}.{kind}.png")


def write(kept: Path, out: Path, name: str) -> bool:
    """Compose a method's sheet (JPEG) of what was kept; False when nothing was."""
    columns = []
    for kind in EDIT_KINDS:
        path = kept / f"{name}.{kind}.png"
        if path.exists():
            case = cases(kind, 1)[0]
            above = [np.asarray(_picture(_strip(rendered(shown).frames))) for shown in (case.before, case.after)]
            columns.append(np.concatenate([*above, np.asarray(Image.open(path))]))
    if columns:
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(columns, axis=1)).save(out, quality=88)
    return bool(columns)


def _strip(frames: Frames) -> torch.Tensor:
    small = functional.interpolate(frames[list(SHOWN)].float(), size=(SIDE, SIDE), mode="area")
    return torch.cat(list(small), dim=2)


def _picture(strip: torch.Tensor) -> Image.Image:
    return Image.fromarray((strip.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())
