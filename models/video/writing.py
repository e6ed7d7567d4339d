"""Frames into a file: MP4 for players, GIF and WebP for pages, a folder of PNG for further work.

Everything is written beside its place and moved there complete, so that no reader meets half a file and an error leaves
nothing behind.
"""

import heapq
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import av
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from models.errors import InvalidParams
from models.types import Frames
from models.video import audio
from models.video.source import Limits, opened

X264 = {"crf": "17", "preset": "medium", "x264-params": "log-level=none"}
WEBP_QUALITY = 90
TRUSTED = Limits(max_pixels=2**31 - 1, max_bytes=2**62)
"""The sound comes from a file whose frames were already read under the caller's limits."""

Write = Callable[[Path, Frames, float, tuple[int, int]], None]


def write(
    path: Path,
    frames: Frames,
    fps: float,
    *,
    audio_from: Path | None = None,
    start_seconds: float = 0.0,
    size: tuple[int, int] | None = None,
) -> None:
    """Write frames (f c h w, 0…1) as `.mp4`, `.gif`, `.webp`, or, without a suffix, a folder of numbered PNG.

    `size` (width, height in pixels) is scaled to; MP4 rounds odd sides down, since H.264 with 4:2:0 colours has none.
    `audio_from` gives an MP4 the sound of that clip from `start_seconds` on. Raises InvalidParams for another suffix.
    """
    size = size or (frames.shape[-1], frames.shape[-2])
    writers: dict[str, Write] = {".gif": _write_gif, ".webp": _write_webp, "": _write_folder}
    suffix = path.suffix.lower()
    if suffix != ".mp4" and suffix not in writers:
        raise InvalidParams(
            f"cannot write {suffix} files", hint="End the name in .mp4, .gif or .webp, or in no suffix."
        )
    if path.is_dir() and any(path.iterdir()):
        raise InvalidParams(
            f"the folder {path.name} exists and is not empty", hint="Name a folder that is not there yet."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        if suffix == ".mp4":
            _write_mp4(part, frames, fps, size, audio_from, start_seconds)
        else:
            writers[suffix](part, frames, fps, size)
        part.replace(path)
    finally:
        _remove(part)


def _write_mp4(
    path: Path, frames: Frames, fps: float, size: tuple[int, int], audio_from: Path | None, start_seconds: float
) -> None:
    with ExitStack() as stack:
        target = stack.enter_context(av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}))
        video = _add_video(target, fps, (max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)))
        tracks = [_encoded(video, frames)]
        if audio_from is not None:
            source, picture = stack.enter_context(opened(audio_from, TRUSTED))
            origin = float((picture.start_time or 0) * (picture.time_base or 0))
            for sound in source.streams.audio[:1]:
                copy = audio.add_stream(target, sound)
                duration = len(frames) / fps
                tracks.append(audio.packets(source, sound, copy, origin + start_seconds, duration))
        for packet in heapq.merge(*tracks, key=_decoding_time):
            target.mux(packet)


def _add_video(target: OutputContainer, fps: float, size: tuple[int, int]) -> VideoStream:
    """An H.264 track, its colours tagged as what they are: BT.709, limited range."""
    video: VideoStream = target.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=X264)
    video.width, video.height = size
    video.pix_fmt = "yuv420p"
    context = video.codec_context
    context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709.value
    context.color_range = ColorRange.MPEG.value
    return video


def _encoded(video: VideoStream, frames: Frames) -> Iterator[audio.AnyPacket]:
    for i, frame in enumerate(frames):
        picture = VideoFrame.from_ndarray(_bytes(frame).numpy(), format="rgb24").reformat(
            width=video.width,
            height=video.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            interpolation=Interpolation.BICUBIC,
        )
        picture.pts = i
        picture.time_base = 1 / video.codec_context.framerate
        yield from video.encode(picture)
    yield from video.encode(None)


def _decoding_time(packet: audio.AnyPacket) -> float:
    return float((packet.dts or 0) * (packet.time_base or 0))


def _write_gif(path: Path, frames: Frames, fps: float, size: tuple[int, int]) -> None:
    """Each frame with its own palette; durations are hundredths of a second, so they alternate to keep the rate."""
    first, *rest = [image.quantize(256, dither=Image.Dither.FLOYDSTEINBERG) for image in _images(frames, size)]
    ends = [round(100 * i / fps) for i in range(len(frames) + 1)]
    durations = [10 * (b - a) for a, b in pairwise(ends)]
    first.save(path, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)


def _write_webp(path: Path, frames: Frames, fps: float, size: tuple[int, int]) -> None:
    images = _images(frames, size)
    ends = [round(1000 * i / fps) for i in range(len(frames) + 1)]
    durations = [b - a for a, b in pairwise(ends)]
    next(images).save(
        path, "WEBP", save_all=True, append_images=images, duration=durations, loop=0, quality=WEBP_QUALITY
    )


def _write_folder(path: Path, frames: Frames, fps: float, size: tuple[int, int]) -> None:
    path.mkdir()
    for i, image in enumerate(_images(frames, size)):
        image.save(path / f"{i:05d}.png")


def _images(frames: Frames, size: tuple[int, int]) -> Iterator[Image.Image]:
    for frame in frames:
        image = Image.fromarray(_bytes(frame).numpy())
        yield image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _bytes(frame: Tensor) -> Tensor:
    """One frame (c h w, 0…1) as bytes (h w c)."""
    return frame.detach().float().mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
