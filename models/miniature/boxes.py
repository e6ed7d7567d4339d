"""Where the subject is: boxes from exact coverage, and pictures with subjects anywhere, to learn grounding from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.miniature import scene as world_scene
from models.miniature import world
from models.miniature.data import FIRST_SEED
from models.miniature.motion import Pose
from models.miniature.scene import Scene, generator

Box = tuple[float, float, float, float]


def box_of(mask: NDArray[np.float32]) -> Box:
    """The box (left, top, right, bottom; fractions of the sides) around a mask (h, w). ValueError for an empty one."""
    rows, columns = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    height, width = mask.shape
    left, right = columns[0] / width, (columns[-1] + 1) / width
    return float(left), float(rows[0] / height), float(right), float((rows[-1] + 1) / height)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def anywhere(seed: int) -> Pose:
    """A pose that belongs to a seed: smaller or as large as in clips, and anywhere that keeps it in the frame."""
    rng = generator("anywhere", seed)
    height = float(rng.uniform(0.34, 0.68))
    x, y = (float(rng.uniform(0.5 * height - 0.02, 1.02 - 0.5 * height)) for _ in range(2))
    return Pose(x, y, height, float(rng.uniform(-0.15, 0.15)))


def pictures_anywhere(seeds: Sequence[int], size: int = 128) -> tuple[NDArray[np.uint8], list[Scene], list[Box]]:
    """One picture of each seed's random scene with its subject anywhere: (n h w 3), the scenes, the boxes."""
    scenes = [world_scene.sample_scene(seed) for seed in seeds]
    drawn = [world.picture_at(shown, anywhere(shown.seed), size) for shown in scenes]
    return np.stack([picture for picture, _ in drawn]), scenes, [box_of(mask) for _, mask in drawn]


def boxes_of_pictures(count: int) -> list[Box]:
    """The boxes of the first `count` training pictures (`data.pictures`)."""
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    times = (float(generator("time", seed).random()) for seed in seeds)
    return [
        box_of(world.coverage(world_scene.sample_scene(seed), time)) for seed, time in zip(seeds, times, strict=True)
    ]
