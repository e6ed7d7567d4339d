"""Frames out of a file: the wanted part, at the wanted rate and size, in memory that is counted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from models.errors import InvalidInput
from models.types import Frames
from models.video.source import Limits, Probe, decoded, opened, probe, standing

MULTIPLE = 64
TIME_TOLERANCE_SECONDS = 0.001
UNSPECIFIED_COLOURS = 2
BYTES_A_VALUE = 5
"""A frame is held once as bytes and once as float while the clip is being read."""


@dataclass(frozen=True)
class Transform:
    """From the source as displayed to the working frames: turned upright, a region of it kept, then scaled.

    The region (source pixels) is the whole picture, or its middle where the aspect ratio was cropped to.
    """

    source_width: int
    source_height: int
    width: int
    height: int
    rotation: int
    left: int
    top: int
    region_width: int
    region_height: int


@dataclass(frozen=True)
class Footage:
    """Frames (f c h w, 0…1) at working size and at a constant rate `fps`, with the way back to the source's size.

    `source_width` and `source_height` are of the region that was kept: all of the source unless it was cropped.
    """

    frames: Frames
    fps: float
    source_width: int
    source_height: int
    transform: Transform


def read(
    path: Path,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    width: int | None = None,
    height: int | None = None,
    native_size: int = 512,
    crop: bool = False,
    limits: Limits | None = None,
) -> Footage:
    """Decode frames with start <= time < end, times counted from the first frame.

    Left out, `fps` is the source's rate and `width`, `height` follow `working_size`. A variable rate, or another `fps`,
    is resampled by time: each frame of the result is the one on display at its moment. With `crop` another aspect ratio
    keeps the middle of the picture instead of squeezing it. Raises InvalidInput.
    """
    limits = limits or standing()
    source = probe(path, limits)
    size = working_size(source.width, source.height, native_size, width, height)
    scaled = _covering(source, size) if crop else size
    most = limits.max_memory_bytes // (BYTES_A_VALUE * 3 * size[0] * size[1])
    pictures: list[NDArray[np.uint8]] = []
    for frame in _selected(path, source, limits, start_seconds, end_seconds, fps):
        pictures.append(_picture(frame, source, size, scaled))
        if len(pictures) == max_frames:
            break
        if len(pictures) > most:
            hint = "Edit a part (start_seconds, end_seconds, max_frames), fewer frames a second, or a smaller size."
            raise InvalidInput(f"more than {most} frames of {size[0]} x {size[1]}", code="input.too_long", hint=hint)
    if not pictures:
        message = f"no frame between {start_seconds} s and the end; the clip lasts {source.duration_seconds:.2f} s"
        raise InvalidInput(message, code="input.no_frames")
    region = _region(source, size, scaled)
    transform = Transform(source.width, source.height, *size, source.rotation, *region)
    return Footage(_stacked(pictures), fps or source.fps, *region[2:], transform)


def _covering(source: Probe, size: tuple[int, int]) -> tuple[int, int]:
    """The whole source scaled, its aspect kept, until it covers the working size."""
    scale = max(size[0] / source.width, size[1] / source.height)
    return max(size[0], round(source.width * scale)), max(size[1], round(source.height * scale))


def _region(source: Probe, size: tuple[int, int], scaled: tuple[int, int]) -> tuple[int, int, int, int]:
    """What is kept of the source, in its pixels: left, top, width, height."""
    width, height = round(source.width * size[0] / scaled[0]), round(source.height * size[1] / scaled[1])
    return (source.width - width) // 2, (source.height - height) // 2, width, height


def working_size(
    source_width: int, source_height: int, native_size: int, width: int | None = None, height: int | None = None
) -> tuple[int, int]:
    """Width and height to edit at: those given, else the source's aspect at an area of about `native_size` squared.

    Sides not given are multiples of 64, at least 64: of those, the pair nearest in aspect and area (logarithms).
    """
    aspect = source_width / source_height
    if width and height:
        return width, height
    if width or height:
        other = width / aspect if width else (height or 0) * aspect
        rounded = max(MULTIPLE, round(other / MULTIPLE) * MULTIPLE)
        return (width, rounded) if width else (rounded, height or 0)
    sides = range(MULTIPLE, 4 * native_size + MULTIPLE, MULTIPLE)

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1] / aspect)) + abs(math.log(size[0] * size[1] / native_size**2))

    return min(((w, h) for w in sides for h in sides), key=distance)


def _selected(
    path: Path, source: Probe, limits: Limits, start: float, end_seconds: float | None, fps: float | None
) -> Iterator[VideoFrame]:
    """Frames of the window at a constant rate: all of them, or one for each moment of the new rate."""
    end = math.inf if end_seconds is None else end_seconds
    timed = _timed(path, source, limits, start)
    if source.constant_rate and fps in (None, source.fps):
        for time, frame in timed:
            if time >= end - TIME_TOLERANCE_SECONDS:
                return
            if time >= start - TIME_TOLERANCE_SECONDS:
                yield frame
    else:
        yield from _resampled(timed, fps or source.fps, start, min(end, source.duration_seconds))


def _timed(path: Path, source: Probe, limits: Limits, start: float) -> Iterator[tuple[float, VideoFrame]]:
    """Decode from the last key frame before `start`; times in seconds from the first frame of the clip."""
    with opened(path, limits) as (container, stream):
        if start > 1 and stream.time_base:
            _seek(container, int((source.origin_seconds + start - 0.5) / stream.time_base), stream)
        for count, frame in enumerate(decoded(container, stream, limits)):
            yield (count / source.fps if frame.time is None else frame.time - source.origin_seconds), frame


def _seek(container: InputContainer, offset: int, stream: VideoStream) -> None:
    try:
        container.seek(offset, stream=stream)
    except FFmpegError:
        return  # a container that cannot seek is decoded from its beginning


def _resampled(
    timed: Iterator[tuple[float, VideoFrame]], rate: float, start: float, end: float
) -> Iterator[VideoFrame]:
    """Hold each frame until the next one's time and emit it for every moment `start + k / rate` before `end`."""
    shown: VideoFrame | None = None
    count = 0
    for time, frame in timed:
        while shown is not None and start + count / rate < min(time, end) - TIME_TOLERANCE_SECONDS:
            yield shown
            count += 1
        if time >= end:
            return
        shown = frame
    while shown is not None and start + count / rate < end - TIME_TOLERANCE_SECONDS:
        yield shown
        count += 1


def _picture(frame: VideoFrame, source: Probe, size: tuple[int, int], scaled: tuple[int, int]) -> NDArray[np.uint8]:
    """One decoded frame as upright RGB (h w 3): the middle, of working size, of the picture scaled as a whole."""
    turned = source.rotation % 180 != 0
    width, height = scaled[::-1] if turned else scaled
    assumed = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=assumed if frame.colorspace == UNSPECIFIED_COLOURS else None,
        interpolation=Interpolation.AREA if width < frame.width else Interpolation.BICUBIC,
    )
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    pixels: NDArray[np.uint8] = rgb.to_ndarray().astype(np.uint8, copy=False)
    return np.rot90(pixels, source.rotation // 90)[top : top + size[1], left : left + size[0]]


def _stacked(pictures: list[NDArray[np.uint8]]) -> Frames:
    height, width, _ = pictures[0].shape
    frames = torch.empty(len(pictures), 3, height, width)
    for target, picture in zip(frames, pictures, strict=True):
        target.copy_(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)).div_(255)
    return frames
