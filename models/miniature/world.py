"""The miniature world's renderer: frames with exact masks, depth, flow, occlusion, tracks and edges.

A clip is a stack of layers, farthest first: the background's sheets, which shift with the camera, and the
subject, which moves by an affine map. All ground truth follows from these motions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from models.miniature import geometry
from models.miniature.backgrounds import Layer, layers
from models.miniature.motion import Pose, affine, pan, pose
from models.miniature.scene import Scene, generator, sample_scene
from models.miniature.sprites import SIDE, sprite
from models.miniature.styles import stylise

Picture = NDArray[np.float32]
SUBJECT_DEPTH = 0.2


@dataclass(frozen=True)
class Render:
    """A clip and its ground truth, float32 on the CPU.

    Flow is in pixels (x, y), from frame i to i + 1 (forward) or from i + 1 to i (backward); occlusion is 1 where
    the pixel is hidden or outside the other frame; depth runs from 0 (near) to 1 (far).
    """

    frames: Float[Tensor, "f 3 h w"]
    masks: Float[Tensor, "f 1 h w"]
    depth: Float[Tensor, "f 1 h w"]
    flow_forward: Float[Tensor, "g 2 h w"]
    flow_backward: Float[Tensor, "g 2 h w"]
    occlusion_forward: Float[Tensor, "g 1 h w"]
    occlusion_backward: Float[Tensor, "g 1 h w"]
    tracks: Float[Tensor, "f n 2"]
    visible: Float[Tensor, "f n"]
    edges: Float[Tensor, "f 1 h w"]


def render_frames(scene: Scene, frames: int = 8, size: int = 128) -> NDArray[np.uint8]:
    """The clip's pictures alone: (f, h, w, 3) uint8, square with side `size`."""
    return np.stack([_bytes(_picture(scene, time, size)) for time in _times(frames)])


def render_pictures(seeds: Sequence[int], size: int = 128) -> tuple[NDArray[np.uint8], list[Scene]]:
    """One frame, at a random time, of each seed's random scene: (n, h, w, 3) uint8, and the scenes."""
    scenes = [sample_scene(seed) for seed in seeds]
    times = [float(generator("time", seed).random()) for seed in seeds]
    pictures = [_bytes(_picture(scene, time, size)) for scene, time in zip(scenes, times, strict=True)]
    return np.stack(pictures), scenes


def render(scene: Scene, frames: int = 8, size: int = 128, points: int = 32) -> Render:
    """The clip with everything that is known about it; `points` tracks start in the first frame."""
    stack, times = layers(scene.background, scene.seed), _times(frames)
    plain = [_plain(scene, stack, time, size) for time in times]
    looks = [stylise(scene.style, picture, mask, scene.seed) for picture, mask, _ in plain]
    sheets = _sheets(scene, stack, times, [covers for _, _, covers in plain], size)
    seen = geometry.labels(sheets)
    ahead = [geometry.step(sheets, seen, i, i + 1) for i in range(frames - 1)]
    back = [geometry.step(sheets, seen, i + 1, i) for i in range(frames - 1)]
    paths, visible = geometry.tracks(sheets, seen, scene.seed, points)
    depths = np.array([sheet.depth for sheet in sheets], np.float32)
    return Render(
        frames=_tensor([look.transpose(2, 0, 1) for look in looks], 3, size),
        masks=_tensor([mask[None] for _, mask, _ in plain], 1, size),
        depth=_tensor(list(depths[seen][:, None]), 1, size),
        flow_forward=_tensor([each.flow for each in ahead], 2, size),
        flow_backward=_tensor([each.flow for each in back], 2, size),
        occlusion_forward=_tensor([each.occlusion for each in ahead], 1, size),
        occlusion_backward=_tensor([each.occlusion for each in back], 1, size),
        tracks=torch.from_numpy(paths),
        visible=torch.from_numpy(visible.astype(np.float32)),
        edges=_tensor([_edges(picture)[None] for picture, _, _ in plain], 1, size),
    )


def _times(frames: int) -> list[float]:
    return [index / max(frames - 1, 1) for index in range(frames)]


def _picture(scene: Scene, time: float, size: int) -> Picture:
    picture, mask, _ = _plain(scene, layers(scene.background, scene.seed), time, size)
    return stylise(scene.style, picture, mask, scene.seed)


def picture_at(scene: Scene, at: Pose, size: int = 128) -> tuple[NDArray[np.uint8], Picture]:
    """The clip's middle with its subject at `at`: a picture (h, w, 3) uint8, and the subject's coverage (h, w)."""
    picture, mask, _ = _plain(scene, layers(scene.background, scene.seed), 0.5, size, at)
    return _bytes(stylise(scene.style, picture, mask, scene.seed)), mask


def coverage(scene: Scene, time: float, size: int = 128) -> Picture:
    """Which part of every pixel the subject covers at `time` in 0...1: (h, w)."""
    return np.asarray(np.clip(_subject(scene, pose(scene, time), size)[..., 3], 0, 1), np.float32)


def _plain(
    scene: Scene, stack: Sequence[Layer], time: float, size: int, at: Pose | None = None
) -> tuple[Picture, Picture, list[Picture]]:
    """The unstyled picture (h, w, 3), the subject's coverage (h, w), and the coverage of every layer."""
    grid = np.asarray((np.arange(size, dtype=np.float32) + 0.5) / size, np.float32)
    picture = np.zeros((size, size, 3), np.float32)
    covers: list[Picture] = []
    for layer in stack:
        across = np.asarray(grid[None, :] + np.float32(layer.parallax * pan(scene, time)), np.float32)
        colour, cover = layer.paint(across, grid[:, None])
        picture = colour if cover is None else picture + (colour - picture) * cover[..., None]
        covers.append(np.ones((size, size), np.float32) if cover is None else cover)
    subject = _subject(scene, at or pose(scene, time), size)
    mask = np.clip(subject[..., 3], 0, 1)
    picture = picture * (1 - mask[..., None]) + subject[..., :3]
    return picture, mask, [*covers, mask]


def _subject(scene: Scene, at: Pose, size: int) -> Picture:
    """The subject on a clear frame: (h, w, 4), colour premultiplied by coverage."""
    level = int(np.clip(np.floor(np.log2(SIDE / (at.height * size)) + 0.4), 0, 3))
    source = sprite(scene.subject, scene.colour, level)
    move = affine(at, source.shape[0], size)[:2]
    return np.asarray(cv2.warpAffine(source, move, (size, size), flags=cv2.INTER_LINEAR), np.float32)


def _sheets(
    scene: Scene, stack: Sequence[Layer], times: Sequence[float], covers: Sequence[Sequence[Picture]], size: int
) -> list[geometry.Sheet]:
    """Background sheets and the subject with their maps over the clip, farthest first."""
    sheets = []
    for index, layer in enumerate(stack):
        maps = np.tile(np.eye(3), (len(times), 1, 1))
        maps[:, 0, 2] = [-layer.parallax * pan(scene, time) * size for time in times]
        sheets.append(geometry.Sheet(np.stack([frame[index] for frame in covers]), maps, layer.depth))
    path = np.stack([affine(pose(scene, time), SIDE, size) for time in times])
    return [*sheets, geometry.Sheet(np.stack([frame[-1] for frame in covers]), path, SUBJECT_DEPTH)]


def _edges(picture: Picture) -> Picture:
    return np.asarray(cv2.Canny(_bytes(picture), 60, 140) > 0, np.float32)


def _bytes(picture: Picture) -> NDArray[np.uint8]:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _tensor(parts: list[Picture], channels: int, size: int) -> Tensor:
    """Stack to (n, channels, size, size); an empty list gives n = 0."""
    if not parts:
        return torch.zeros(0, channels, size, size)
    return torch.from_numpy(np.ascontiguousarray(np.stack(parts), dtype=np.float32))
