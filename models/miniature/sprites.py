"""The subjects: small pictures whose body takes a named colour. Art: Noto Emoji, see sprites/NOTICE."""

import functools
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

SIDE = 96
"""Side of every sprite, pixels."""
RGB: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.13, 0.13),
    "yellow": (0.98, 0.82, 0.10),
    "green": (0.15, 0.68, 0.22),
    "blue": (0.13, 0.38, 0.93),
    "purple": (0.60, 0.20, 0.78),
    "white": (0.93, 0.93, 0.95),
}
_FOLDER = Path(__file__).with_name("sprites")
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


@functools.lru_cache(maxsize=256)
def sprite(subject: str, colour: str, level: int = 0) -> Picture:
    """The subject in the colour: (SIDE / 2**level, same, 4) float32, colour premultiplied by alpha."""
    if level > 0:
        return np.ascontiguousarray(cv2.resize(sprite(subject, colour, level - 1), None, fx=0.5, fy=0.5,
                                               interpolation=cv2.INTER_AREA), dtype=np.float32)  # fmt: skip
    rgb, alpha = _art(subject)
    painted = _recoloured(subject, rgb, alpha, np.array(RGB[colour], np.float32))
    rim = cv2.GaussianBlur(cv2.dilate(alpha, np.ones((3, 3), np.uint8), iterations=2), (0, 0), 0.8)
    ink = np.array(RGB[colour], np.float32) * 0.35
    picture = painted * alpha[..., None] + ink * (rim * (1 - alpha))[..., None]
    full = np.dstack([picture, rim * (1 - alpha) + alpha])
    return np.asarray(cv2.GaussianBlur(full, (0, 0), 0.7), dtype=np.float32)


@functools.lru_cache(maxsize=64)
def _art(subject: str) -> tuple[Picture, Picture]:
    stored = cv2.imread(str(_FOLDER / f"{subject}.png"), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise FileNotFoundError(_FOLDER / f"{subject}.png")
    art = stored.astype(np.float32) / 255
    return np.ascontiguousarray(art[..., 2::-1]), np.ascontiguousarray(art[..., 3])


def _recoloured(subject: str, rgb: Picture, alpha: Picture, colour: Picture) -> Picture:
    """Give the body the colour at its own lightness; black details, white details and leaves stay."""
    luma = rgb @ _LUMA
    spread = rgb.max(-1) - rgb.min(-1)
    body = _ramp(rgb.max(-1), 0.26, 0.40) * (1 - _ramp(luma, 0.86, 0.94) * (1 - _ramp(spread, 0.10, 0.25)))
    if subject == "flower":
        body *= 1 - (rgb[..., 1] > rgb[..., 0] + 0.02)
    solid = (alpha > 0.9) & (body > 0.9)
    lightness = luma / np.float32(np.median(luma[solid]))
    shade = np.clip(lightness, 0.45, 1)[..., None] * colour
    tint = np.clip((lightness - 1) * 0.6, 0, 0.35)[..., None]
    painted = shade + (1 - shade) * tint
    return np.asarray(rgb + (painted - rgb) * body[..., None], dtype=np.float32)


def _ramp(value: Picture, low: float, high: float) -> Picture:
    return np.asarray(np.clip((value - low) / (high - low), 0, 1), dtype=np.float32)
