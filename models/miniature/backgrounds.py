"""Eight procedural backgrounds, each a stack of layers painted analytically at any horizontal offset."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.miniature.scene import generator

Picture = NDArray[np.float32]
Paint = Callable[[Picture, Picture], tuple[Picture, Picture | None]]


@dataclass(frozen=True)
class Layer:
    """One sheet of scenery.

    `paint(x, y)` takes world coordinates in frame sides (x (1, w), y (h, 1)) and returns colour (h, w, 3) and
    coverage (h, w), or None where it covers all. `parallax` 0 stands still when the camera pans, 1 moves
    with the ground; `depth` runs from 0 (at the lens) to 1 (infinity).
    """

    paint: Paint
    parallax: float
    depth: float


def layers(background: str, seed: int) -> tuple[Layer, ...]:
    """The layers of a background, farthest first; the seed moves hills, trees, houses, sun."""
    return _PAINTERS[background](generator("background", seed))


def _rgb(value: str) -> Picture:
    return np.array([int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32)


def _soft(distance: Picture, y: Picture) -> Picture:
    """Coverage of the region distance > 0 (frame sides), one pixel and a half of softness."""
    pixel = 1.0 / max(y.shape[0], 1)
    return np.asarray(np.clip(distance / (1.5 * pixel) + 0.5, 0, 1), dtype=np.float32)


def _gradient(top: str, bottom: str, end: float) -> Paint:
    """The whole sheet, from `top` at the upper border to `bottom` at y = `end` and under it."""
    a, b = _rgb(top), _rgb(bottom)

    def paint(x: Picture, y: Picture) -> tuple[Picture, None]:
        mix = np.clip(y / end, 0, 1)[..., None]
        return np.broadcast_to(a + (b - a) * mix, (y.shape[0], x.shape[1], 3)).astype(np.float32), None

    return paint


Skyline = Callable[[Picture], Picture]


def _below(skyline: Skyline, top: str, bottom: str, fade: float = 0.4) -> Paint:
    """Everything under the skyline y = f(x), shaded from `top` at the skyline to `bottom` `fade` sides lower."""
    a, b = _rgb(top), _rgb(bottom)

    def paint(x: Picture, y: Picture) -> tuple[Picture, Picture]:
        under = y - skyline(x)
        mix = np.clip(under / fade, 0, 1)[..., None]
        return (a + (b - a) * mix).astype(np.float32), _soft(under, y)

    return paint


def _disc(cx: float, cy: float, radius: float, colour: str, stretch: float = 1.0) -> Paint:
    tint = _rgb(colour)

    def paint(x: Picture, y: Picture) -> tuple[Picture, Picture]:
        away = radius - np.sqrt(((x - cx) / stretch) ** 2 + (y - cy) ** 2)
        return np.broadcast_to(tint, (*away.shape, 3)), _soft(away.astype(np.float32), y)

    return paint


def _over(*paints: Paint) -> Paint:
    """Several paints as one sheet, the last on top."""

    def paint(x: Picture, y: Picture) -> tuple[Picture, Picture | None]:
        colour, cover = paints[0](x, y)
        for other in paints[1:]:
            top, alpha = other(x, y)
            if alpha is None:
                return top, None
            colour = colour + (top - colour) * alpha[..., None]
            cover = None if cover is None else np.maximum(cover, alpha)
        return colour, cover

    return paint


def _flat(level: float) -> Skyline:
    return lambda x: np.full_like(x, level)


def _raised(skyline: Skyline, by: float) -> Skyline:
    return lambda x: np.asarray(skyline(x) - by, dtype=np.float32)


def _hills(rng: np.random.Generator, base: float, height: float, waves: float) -> Skyline:
    phase, other = rng.uniform(0, 2 * np.pi, 2).tolist()

    def skyline(x: Picture) -> Picture:
        wave = np.sin(2 * np.pi * waves * x + phase) + 0.4 * np.sin(2 * np.pi * waves * 1.9 * x + other)
        return np.asarray(base - height * wave / 1.4, dtype=np.float32)

    return skyline


def _teeth(rng: np.random.Generator, base: float, height: float, pitch: float, power: float = 1.0) -> Skyline:
    """A row of peaks of unequal height: firs (power 1) or mountains."""
    phase = rng.uniform(0, 1)
    heights = rng.uniform(0.65, 1.0, 16).astype(np.float32)

    def skyline(x: Picture) -> Picture:
        place = x / pitch + phase
        cell = np.floor(place).astype(np.int32) % 16
        rise = (1 - np.abs(2 * (place - np.floor(place)) - 1)) ** power
        return np.asarray(base - height * heights[cell] * rise, dtype=np.float32)

    return skyline


def _towers(rng: np.random.Generator, base: float, height: float, pitch: float) -> Skyline:
    phase = rng.uniform(0, 1)
    heights = rng.uniform(0.45, 1.0, 16).astype(np.float32)

    def skyline(x: Picture) -> Picture:
        place = x / pitch + phase
        cell = np.floor(place).astype(np.int32)
        # a short ramp instead of a step keeps the walls smooth at every size
        blend = np.clip((place - cell - 0.93) / 0.07, 0, 1)
        tops = heights[cell % 16] + (heights[(cell + 1) % 16] - heights[cell % 16]) * blend
        return np.asarray(base - height * tops, dtype=np.float32)

    return skyline


def _beach(rng: np.random.Generator) -> tuple[Layer, ...]:
    sun = _disc(rng.uniform(0.12, 0.3), 0.15, 0.09, "fff3a8")
    shore = _hills(rng, 0.70, 0.025, 0.7)
    return (
        Layer(_over(_gradient("58bdf0", "c9efff", 0.42), sun), 0.0, 1.0),
        Layer(_below(_flat(0.42), "1f8fc4", "43d0d2", 0.3), 0.3, 0.7),
        Layer(
            _over(_below(_raised(shore, 0.035), "f4fbfa", "f4fbfa"), _below(shore, "f2d795", "e3b868", 0.3)), 1.0, 0.4
        ),
    )


def _forest(rng: np.random.Generator) -> tuple[Layer, ...]:
    return (
        Layer(_gradient("b9dcae", "e0efc4", 0.6), 0.0, 1.0),
        Layer(_below(_teeth(rng, 0.66, 0.52, 0.20), "5f9e6d", "7db784"), 0.3, 0.8),
        Layer(_below(_teeth(rng, 0.80, 0.58, 0.34), "1f5a35", "2d7042", 0.6), 0.6, 0.6),
        Layer(_below(_hills(rng, 0.80, 0.02, 0.8), "5a4a2a", "41351f", 0.2), 1.0, 0.4),
    )


def _desert(rng: np.random.Generator) -> tuple[Layer, ...]:
    sun = _disc(rng.uniform(0.7, 0.88), 0.17, 0.10, "fff6d0")
    return (
        Layer(_over(_gradient("f7b25c", "fde2ae", 0.55), sun), 0.0, 1.0),
        Layer(_below(_hills(rng, 0.50, 0.07, 0.6), "cf7f45", "dd9553", 0.3), 0.3, 0.8),
        Layer(_below(_hills(rng, 0.64, 0.06, 0.8), "e0913f", "d67f35", 0.3), 0.6, 0.6),
        Layer(_below(_hills(rng, 0.82, 0.05, 0.7), "c56a2c", "aa5724", 0.2), 1.0, 0.4),
    )


def _city(rng: np.random.Generator) -> tuple[Layer, ...]:
    return (
        Layer(_gradient("9fb0c9", "dfe3ea", 0.7), 0.0, 1.0),
        Layer(_below(_towers(rng, 0.85, 0.72, 0.17), "8a93a8", "a3abbd", 0.6), 0.3, 0.8),
        Layer(_below(_towers(rng, 0.85, 0.48, 0.24), "566079", "6b7590", 0.5), 0.6, 0.6),
        Layer(_over(_below(_flat(0.80), "b9b6b3", "b9b6b3"),
                    _below(_flat(0.85), "3f4148", "35363c", 0.15)), 1.0, 0.4),
    )  # fmt: skip


def _snow(rng: np.random.Generator) -> tuple[Layer, ...]:
    return (
        Layer(_gradient("8fb7dd", "d8e9f6", 0.6), 0.0, 1.0),
        Layer(_below(_teeth(rng, 0.62, 0.44, 0.46), "f2f8fd", "7d9fc4", 0.35), 0.3, 0.8),
        Layer(_below(_hills(rng, 0.62, 0.04, 0.6), "d3e4f4", "b4cfea", 0.3), 0.6, 0.6),
        Layer(_below(_hills(rng, 0.80, 0.03, 0.8), "dbe9f8", "c4daf0", 0.2), 1.0, 0.4),
    )


def _night(rng: np.random.Generator) -> tuple[Layer, ...]:
    moon = _disc(rng.uniform(0.72, 0.86), 0.17, 0.10, "f6efc4")
    spots = zip(rng.uniform(0.03, 0.62, 5), rng.uniform(0.04, 0.34, 5), strict=True)
    stars = [_disc(float(x), float(y), 0.014, "e8ecff") for x, y in spots]
    return (
        Layer(_over(_gradient("0b1038", "343a86", 0.75), moon, *stars), 0.0, 1.0),
        Layer(_below(_hills(rng, 0.68, 0.07, 0.7), "1c2158", "232964"), 0.3, 0.8),
        Layer(_below(_hills(rng, 0.83, 0.03, 0.8), "0c0f2e", "080a20"), 1.0, 0.4),
    )


def _ocean(rng: np.random.Generator) -> tuple[Layer, ...]:
    lean, phase = rng.uniform(0.3, 0.6), rng.uniform(0, 2 * np.pi)
    water = _gradient("5fe0e6", "0a4f8f", 0.9)

    def sunlit(x: Picture, y: Picture) -> tuple[Picture, None]:
        colour, _ = water(x, y)
        rays = np.sin(2 * np.pi * 1.6 * (x + lean * y) + phase) * np.clip(1 - y, 0, 1) * 0.07
        return np.clip(colour + rays[..., None], 0, 1).astype(np.float32), None

    return (
        Layer(sunlit, 0.0, 1.0),
        Layer(_below(_hills(rng, 0.78, 0.06, 0.8), "0d4478", "0a3763"), 0.4, 0.8),
        Layer(_over(_below(_teeth(rng, 0.93, 0.26, 0.30, 2.2), "14806a", "0f6656"),
                    _below(_hills(rng, 0.89, 0.02, 0.9), "cdbb86", "a89766", 0.15)), 1.0, 0.4),
    )  # fmt: skip


def _meadow(rng: np.random.Generator) -> tuple[Layer, ...]:
    cx = rng.uniform(0.2, 0.5)
    clouds = (_disc(cx, 0.16, 0.075, "ffffff", 2.0), _disc(cx + 0.08, 0.11, 0.065, "ffffff", 1.3),
              _disc(cx + 0.45, 0.24, 0.05, "ffffff", 2.2))  # fmt: skip
    return (
        Layer(_over(_gradient("3f9df0", "b7e0fb", 0.55), *clouds), 0.0, 1.0),
        Layer(_below(_hills(rng, 0.54, 0.06, 0.6), "7cc46a", "69b658", 0.3), 0.3, 0.8),
        Layer(_below(_hills(rng, 0.66, 0.04, 0.8), "8ed44f", "63b136", 0.3), 1.0, 0.4),
    )


_PAINTERS: dict[str, Callable[[np.random.Generator], tuple[Layer, ...]]] = {
    "beach": _beach, "forest": _forest, "desert": _desert, "city": _city,
    "snow": _snow, "night": _night, "ocean": _ocean, "meadow": _meadow,
}  # fmt: skip
