"""Paths: where the subject is and how the camera moves, as functions of time 0...1 and of the seed alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.miniature.scene import Scene, generator

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Subject in one frame: centre and height in fractions of the frame's side, angle in radians."""

    x: float
    y: float
    height: float
    angle: float


@dataclass(frozen=True)
class Placement:
    """What the seed fixes: `sign` is the direction of travel, `reach` its length in frame sides."""

    x: float
    y: float
    height: float
    tilt: float
    sign: float
    reach: float


def placement(seed: int) -> Placement:
    """The placement that belongs to a seed, whatever the scene's attributes."""
    rng = generator("placement", seed)
    return Placement(
        x=float(rng.uniform(0.44, 0.56)),
        y=float(rng.uniform(0.50, 0.58)),
        height=float(rng.uniform(0.55, 0.64)),
        tilt=float(rng.uniform(-0.08, 0.08)),
        sign=float(rng.choice((-1.0, 1.0))),
        reach=float(rng.uniform(0.16, 0.24)),
    )


def pose(scene: Scene, time: float) -> Pose:
    """The subject's pose at `time` in 0...1; all motions share the seed's placement."""
    at = placement(scene.seed)
    swing = time - 0.5
    x, y, height, angle = at.x, at.y, at.height, at.tilt
    if scene.motion == "drift":
        x, y = x + at.sign * at.reach * swing, y + 0.3 * at.reach * swing
    elif scene.motion == "arc":
        x, y = x + at.sign * at.reach * swing, y + 0.06 - 0.18 * np.sin(np.pi * time)
        angle += at.sign * 0.35 * swing
    elif scene.motion == "bounce":
        y += 0.05 - 0.15 * abs(np.sin(2 * np.pi * time + 0.4))
    elif scene.motion == "spin":
        angle += at.sign * 1.4 * swing
    else:
        height *= float(np.exp(0.4 * swing))
    return Pose(float(x), float(y), float(height), float(angle))


def pan(scene: Scene, time: float) -> float:
    """How far the camera has travelled to the right at `time`, in frame sides at parallax 1."""
    if scene.camera == "still":
        return 0.0
    return placement(scene.seed).sign * -0.25 * (time - 0.5)


def affine(at: Pose, side: int, size: int) -> Matrix:
    """(3, 3) map from sprite pixels (x, y, 1), `side` wide, to frame pixels, `size` wide."""
    scale = at.height * size / side
    cos, sin = scale * np.cos(at.angle), scale * np.sin(at.angle)
    middle = (side - 1) / 2
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    turn[:2, 2] = np.array([at.x * size - 0.5, at.y * size - 0.5]) - turn[:2, :2] @ (middle, middle)
    return turn
