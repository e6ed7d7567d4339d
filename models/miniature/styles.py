"""Five looks, each a function of the plain picture, the subject's coverage and the seed."""

import functools
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from models.miniature.scene import generator

Picture = NDArray[np.float32]
Look = Callable[[Picture, Picture, int], Picture]
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def stylise(style: str, picture: Picture, mask: Picture, seed: int) -> Picture:
    """`picture` (h, w, 3) in 0...1 in the style; `mask` (h, w) is the subject's coverage."""
    return np.asarray(np.clip(_LOOKS[style](picture, mask, seed), 0, 1), dtype=np.float32)


def _blur(picture: Picture, sides: float) -> Picture:
    """Gaussian blur whose width is a fraction of the picture's height."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(sides * picture.shape[0], 0.3)), dtype=np.float32)


def _lines(picture: Picture) -> Picture:
    """Strength 0...1 of the outlines, about two pixels wide at 128."""
    soft = _blur(picture, 0.006)
    step = picture.shape[0] / 128
    across = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3)
    down = cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3)
    strength = np.sqrt(across**2 + down**2).max(-1) * step
    return np.asarray(np.clip(strength * 0.75 - 0.08, 0, 1), dtype=np.float32)


@functools.lru_cache(maxsize=8)
def _vignette(height: int, width: int) -> Picture:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.asarray(1 - 0.22 * np.clip((x**2 + y**2) / 2, 0, 1), np.float32)[..., None]


@functools.lru_cache(maxsize=16)
def _blotches(height: int, width: int, seed: int) -> Picture:
    coarse = generator("blotches", seed).uniform(-1, 1, (5, 5)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)[..., None]


@functools.lru_cache(maxsize=8)
def _margin(height: int, width: int) -> Picture:
    """1 at the border, falling to 0 a tenth of the way in."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = 1 - np.maximum(np.abs(x), np.abs(y))
    return np.asarray(np.clip(1 - inside / 0.18, 0, 1), np.float32)[..., None]


def _photo(picture: Picture, mask: Picture, seed: int) -> Picture:
    shading = 1 - 0.14 * mask * np.linspace(0, 1, picture.shape[0], dtype=np.float32)[:, None]
    return picture * shading[..., None] * _vignette(*picture.shape[:2])


def _pencil(picture: Picture, mask: Picture, seed: int) -> Picture:
    luma = (picture @ _LUMA)[..., None]
    paper = np.array((0.95, 0.94, 0.91), np.float32)
    tint = 0.20 + 0.42 * mask[..., None]
    shade = 0.62 + 0.38 * luma + (picture - luma) * tint
    graphite = 0.75 * _lines(picture) * (0.55 + 0.45 * mask)
    return np.asarray(paper * shade * (1 - graphite[..., None]), np.float32)


def _watercolour(picture: Picture, mask: Picture, seed: int) -> Picture:
    soft = _blur(picture, 0.008)
    pooled = 0.22 * _blur(_lines(picture), 0.008)[..., None]
    wash = (0.97 - (1 - soft) * 0.66) * (1 - pooled) + 0.07 * _blotches(*picture.shape[:2], seed)
    return np.asarray(wash + (0.97 - wash) * 0.9 * _margin(*picture.shape[:2]), np.float32)


def _pixel(picture: Picture, mask: Picture, seed: int) -> Picture:
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(width * 32 // height, 1), 32), interpolation=cv2.INTER_AREA)
    palette = np.round(np.clip((small - 0.5) * 1.15 + 0.5, 0, 1) * 5) / 5
    return np.asarray(cv2.resize(palette, (width, height), interpolation=cv2.INTER_NEAREST), np.float32)


def _neon(picture: Picture, mask: Picture, seed: int) -> Picture:
    subject = mask[..., None]
    pure = picture - 0.75 * (1 - subject) * picture.min(-1, keepdims=True)
    vivid = pure / np.maximum(_blur(pure, 0.008).max(-1), 0.25)[..., None]
    tube = vivid * (_lines(picture) * (0.65 + 0.3 * mask))[..., None]
    fill = np.array((0.03, 0.02, 0.08), np.float32) + pure * (0.30 + 0.06 * subject)
    return np.asarray(fill + 0.75 * tube + 1.2 * _blur(tube, 0.022), np.float32)


_LOOKS: dict[str, Look] = {
    "photo": _photo,
    "pencil sketch": _pencil,
    "watercolour": _watercolour,
    "pixel art": _pixel,
    "neon": _neon,
}
