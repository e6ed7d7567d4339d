"""Pictures of edits: a contact sheet per method (source, exact edit, the method's edit), and the one of its page."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from models.bench.cases import EDIT_KINDS, FRAMES, cases, rendered
from models.types import Frames

SHOWN = (0, 2, 4, 7)
"""Of eight frames; of a longer clip the frames at the same part of it."""
SIDE, PAGE_SIDE = 64, 128


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


def pair(source: Frames, edited: Frames, out: Path) -> None:
    """Write a page's picture (PNG): four frames of a clip, and below them the same frames of its edit."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [_strip(frames, PAGE_SIDE) for frames in (source, edited)]
    _picture(torch.cat(rows, dim=1)).save(out)


def _strip(frames: Frames, side: int = SIDE) -> torch.Tensor:
    chosen = [round(place * (len(frames) - 1) / (FRAMES - 1)) for place in SHOWN]
    small = functional.interpolate(frames[chosen].float(), size=(side, side), mode="area")
    return torch.cat(list(small), dim=2)


def _picture(strip: torch.Tensor) -> Image.Image:
    return Image.fromarray((strip.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())
