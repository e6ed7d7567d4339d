"""Ground truth that follows from the motion of a stack of layers: labels, flow, occlusion, tracks."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.miniature.scene import generator

Picture = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Sheet:
    """One layer over a clip: coverage (f, h, w), its maps (f, 3, 3) from layer to frame pixels, its depth."""

    cover: Picture
    maps: NDArray[np.float64]
    depth: float


@dataclass(frozen=True)
class Step:
    """Motion from one frame to another: flow (2, h, w) in pixels, occlusion (1, h, w), 1 where hidden there."""

    flow: Picture
    occlusion: Picture


def labels(sheets: Sequence[Sheet]) -> Labels:
    """(f, h, w) index of the topmost sheet that covers at least half of each pixel."""
    seen = np.zeros(sheets[0].cover.shape, np.int64)
    for index, sheet in enumerate(sheets):
        seen[sheet.cover >= 0.5] = index
    return seen


def step(sheets: Sequence[Sheet], seen: Labels, here: int, there: int) -> Step:
    """Where every pixel of frame `here` lies in frame `there`, and whether something hides it or it left."""
    height, width = seen.shape[1:]
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    flow = np.zeros((2, height, width))
    for index, sheet in enumerate(sheets):
        move = sheet.maps[there] @ np.linalg.inv(sheet.maps[here])
        mine = seen[here] == index
        flow[0][mine] = (move[0, 0] * x + move[0, 1] * y + move[0, 2] - x)[mine]
        flow[1][mine] = (move[1, 0] * x + move[1, 1] * y + move[1, 2] - y)[mine]
    gone = ~_shows(seen[there], seen[here], x + flow[0], y + flow[1])
    return Step(flow.astype(np.float32), gone[None].astype(np.float32))


def _shows(seen: Labels, wanted: Labels, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the label `wanted` is the visible one at (x, y), which must lie inside the frame."""
    height, width = seen.shape
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    at_x, at_y = x.astype(np.float32), y.astype(np.float32)
    shown = np.zeros(x.shape, bool)
    for index in np.unique(wanted):
        share = cv2.remap((seen == index).astype(np.float32), at_x, at_y, cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
        shown |= (wanted == index) & (share.reshape(x.shape) >= 0.5)
    return np.asarray(shown & inside, bool)


def tracks(sheets: Sequence[Sheet], seen: Labels, seed: int, points: int) -> tuple[Picture, NDArray[np.bool_]]:
    """Points chosen in the first frame and followed: (f, n, 2) pixel positions (x, y), (f, n) visible.

    Half of them lie on the topmost sheet, the others anywhere.
    """
    height, width = seen.shape[1:]
    rng = generator("tracks", seed)
    on_top = np.argwhere(seen[0] == len(sheets) - 1)
    half = points // 2 if len(on_top) else 0
    anywhere = np.stack([rng.integers(height, size=points - half), rng.integers(width, size=points - half)], 1)
    chosen = np.concatenate([on_top[rng.integers(max(len(on_top), 1), size=half)].reshape(-1, 2), anywhere])
    label = seen[0][chosen[:, 0], chosen[:, 1]]
    start = np.stack([chosen[:, 1], chosen[:, 0], np.ones(points)], 1).astype(np.float64)
    paths, visible = [], []
    for time in range(len(seen)):
        moves = np.stack([sheet.maps[time] @ np.linalg.inv(sheet.maps[0]) for sheet in sheets])
        at = np.einsum("nij,nj->ni", moves[label], start)[:, :2]
        paths.append(at)
        visible.append(_shows(seen[time], label[None], at[None, :, 0], at[None, :, 1])[0])
    return np.stack(paths).astype(np.float32), np.stack(visible)
