"""Edges of the frames, found without any checkpoint: Canny, line art and soft edges, white on black.

Each makes an estimator whose signal is ``f 3 h w``, 0…1, three equal channels, as ControlNets take it.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.context import Estimator
from models.types import Clip, Frames

VERSION = 1

Bytes = NDArray[np.uint8]
Grey = NDArray[np.float32]

SURROUNDINGS_PIXELS = 6.0
"""Line art: a stroke is darker than the picture blurred by this much."""
FAINT, DARKEST = 8 / 255, 16 / 255
SCALES_PIXELS = (1.0, 2.0)
"""Soft edges: the picture is blurred by these before its slopes are taken."""
STRONG = 0.98
"""Soft edges: this part of all pixels that have a slope lies below white."""


def canny(low: int, high: int) -> Estimator:
    """Estimator: thin edges, black or white (Canny 1986); thresholds are of slopes in 0…255, hysteresis between."""

    def find(clip: Clip) -> Frames:
        return _shown([cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), low, high) for picture in _bytes(clip)])

    return find


def lineart(clip: Clip) -> Frames:
    """Estimator: strokes that are darker than what surrounds them, as strong as they are against the usual one."""
    strokes = [_strokes(picture) for picture in _pictures(clip)]
    visible = np.concatenate([stroke[stroke > FAINT] for stroke in strokes])
    level = max(DARKEST, float(np.median(visible))) if visible.size else 1.0
    return _shown([stroke / level / 2 for stroke in strokes])


def softedge(clip: Clip) -> Frames:
    """Estimator: how steep the steepest colour is, over two scales; one white level for the whole clip."""
    slopes = [_slope(picture) for picture in _pictures(clip)]
    steep = np.concatenate([slope[slope > FAINT / 8] for slope in slopes])
    level = float(np.quantile(steep, STRONG)) if steep.size else 1.0
    return _shown([slope / level for slope in slopes])


def _strokes(picture: Grey) -> Grey:
    around = cv2.GaussianBlur(picture, (0, 0), SURROUNDINGS_PIXELS)
    darker: Grey = np.clip((around - picture).min(axis=2), 0, 1)
    return darker


def _slope(picture: Grey) -> Grey:
    found = np.zeros(picture.shape[:2], np.float32)
    for scale in SCALES_PIXELS:
        smooth = cv2.GaussianBlur(picture, (0, 0), scale)
        across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        found = np.maximum(found, scale * np.hypot(across, down).max(axis=2) / 8)
    return found


def _pictures(clip: Clip) -> list[Grey]:
    return [np.ascontiguousarray(frame.numpy()) for frame in clip.frames.float().cpu().permute(0, 2, 3, 1)]


def _bytes(clip: Clip) -> list[Bytes]:
    return [(picture * 255).round().clip(0, 255).astype(np.uint8) for picture in _pictures(clip)]


def _shown(maps: list[Any]) -> Frames:
    """Maps (bytes, or numbers of which 1 is white) as pictures of three channels."""
    scaled = [found / np.float32(255) if found.dtype == np.uint8 else found for found in maps]
    stacked = torch.from_numpy(np.stack(scaled)).float().clamp(0, 1)
    return stacked[:, None].expand(-1, 3, -1, -1).contiguous()
