"""How much the evaluation measures, and what each of its parts returns."""

from dataclasses import dataclass

from models.miniature import sheet

Measured = tuple[dict[str, float], list[sheet.Cell]]
"""Figures by key, and captioned pictures to look at."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: counts of held-out scenes, of frames of each clip, and of steps."""

    renders: int = 500
    captions: int = 500
    inversions: int = 20
    edits: int = 24
    frames: int = 1
    recogniser_renders: int = 1920
    pipeline: int = 16
    linear_fit: int = 1000
    clips: int = 4
    boxed: int = 40
    motions: int = 4
    sampling_steps: int = 25
    inversion_steps: int = 50


QUICK = Sizes(
    renders=100,
    captions=64,
    inversions=6,
    edits=8,
    frames=1,
    recogniser_renders=640,
    pipeline=4,
    clips=2,
    boxed=16,
    motions=2,
)
