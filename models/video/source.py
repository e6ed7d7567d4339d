"""Opening and measuring a file that somebody sent: nothing its header says is trusted.

Containers come from a short list and only from the file itself, so that a playlist or a reference inside it reaches no
other file and no network. Sizes and lengths are checked in the header and counted again while packets and frames pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from models.errors import InvalidInput

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts"
MATROSKA = b"\x1aE\xdf\xa3"
SIGNATURES = {4: (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"), 0: (MATROSKA, b"RIFF", b"GIF8")}
RATE_TOLERANCE = 0.02
"""Times in a container are rounded, in Matroska to a millisecond: rates closer than this are the same."""


@dataclass(frozen=True)
class Limits:
    """What a file may cost before it is refused: pixels of a frame, seconds, frames, bytes of file and of memory."""

    max_pixels: int = 4096 * 2304
    max_duration_seconds: float = 600.0
    max_frames: int = 72_000
    max_bytes: int = 2 << 30
    max_memory_bytes: int = 8 << 30


_standing: ContextVar[Limits | None] = ContextVar("limits", default=None)


@contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Inside, every file that is read without limits of its own has these. What surrounds an edit sets them once."""
    token = _standing.set(limits)
    try:
        yield
    finally:
        _standing.reset(token)


def standing() -> Limits:
    """The limits that hold here: those of `limited`, or the usual ones."""
    return _standing.get() or Limits()


@dataclass(frozen=True)
class Probe:
    """A clip as displayed: square pixels, upright.

    `frames_estimate` counts the packets of the video stream, `fps` is its rate (of a variable one, the usual rate where
    few frames are missing, else the mean), `rotation` the counterclockwise turn, in degrees, from coded to displayed,
    `origin_seconds` the time of the first frame on the container's clock.
    """

    width: int
    height: int
    fps: float
    frames_estimate: int
    duration_seconds: float
    has_audio: bool
    constant_rate: bool
    rotation: int
    origin_seconds: float


def probe(path: Path, limits: Limits | None = None) -> Probe:
    """Measure a clip, decoding one frame. Raises InvalidInput with the code that says what is wrong with it."""
    limits = limits or standing()
    with opened(path, limits) as (container, stream):
        times = _times(container, stream, limits)
        interval = _usual_interval(times, stream)
        duration = times[-1] - times[0] + interval
        _refuse_truncated(container, stream, times, interval)
        has_audio = bool(container.streams.audio)
    with opened(path, limits) as (container, stream):
        first = next(decoded(container, stream, limits), None)
        if first is None:
            raise InvalidInput("the video has no frame that can be decoded", code="input.no_frames")
        width, height = _displayed(first, stream)
    constant = max((abs(b - a - interval) for a, b in pairwise(times)), default=0) < interval / 4
    return Probe(
        width=width,
        height=height,
        fps=_rate(stream, times, interval, constant),
        frames_estimate=len(times),
        duration_seconds=duration,
        has_audio=has_audio,
        constant_rate=constant,
        rotation=_rotation(first),
        origin_seconds=times[0],
    )


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and find its video; what FFmpeg reports, there or in the body, becomes `input.decode_failed`."""
    size_bytes = path.stat().st_size
    if size_bytes > limits.max_bytes:
        message = f"the file has {size_bytes} bytes, at most {limits.max_bytes} are accepted"
        raise InvalidInput(message, code="input.too_large")
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        container = av.open(f"file:{path.resolve()}", container_options=options, metadata_errors="replace")
    except (FFmpegError, ValueError) as error:
        raise _unreadable(path, error) from error
    with container:
        pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not len(container.streams):
            raise InvalidInput("the file has no frames", code="input.no_frames")
        if not pictures:
            raise InvalidInput("the file has no video in it", code="input.not_video")
        stream = pictures[0]
        _refuse_large(stream.codec_context.width, stream.codec_context.height, limits)
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        try:
            yield container, stream
        except FFmpegError as error:
            raise _damaged(error.strerror or "broken data") from error


def decoded(container: InputContainer, stream: VideoStream, limits: Limits) -> Iterator[VideoFrame]:
    """Decoded frames in display order; InvalidInput when there are more, or larger ones, than the limits allow."""
    for count, frame in enumerate(container.decode(stream), start=1):
        _refuse_large(frame.width, frame.height, limits)
        _refuse_many(count, limits)
        yield frame


def _times(container: InputContainer, stream: VideoStream, limits: Limits) -> list[float]:
    """Display times of all frames in seconds, in order, read from the packets without decoding them."""
    base = stream.time_base or Fraction(1, 90_000)
    times: list[float] = []
    for packet in container.demux(stream):
        stamp = packet.dts if packet.pts is None else packet.pts
        if packet.is_corrupt:
            raise _damaged("its last packet is cut")
        if packet.size and not packet.is_discard and stamp is not None:
            times.append(float(stamp * base))
        _refuse_many(len(times), limits)
    if not times and stream.frames:
        raise _damaged(f"its header promises {stream.frames} frames and none is there")
    if not times:
        raise InvalidInput("the video has no frames", code="input.no_frames")
    times.sort()
    if times[-1] - times[0] > limits.max_duration_seconds:
        seconds = times[-1] - times[0]
        message = f"the clip lasts {seconds:.0f} s, at most {limits.max_duration_seconds:.0f} s are accepted"
        raise InvalidInput(message, code="input.too_long", hint="Cut the part to edit out of the clip first.")
    return times


def _usual_interval(times: list[float], stream: VideoStream) -> float:
    gaps = [b - a for a, b in pairwise(times) if b > a]
    fallback = stream.average_rate or stream.guessed_rate or Fraction(25)
    return median(gaps) if gaps else float(1 / fallback)


def _rate(stream: VideoStream, times: list[float], interval: float, constant: bool) -> float:
    duration = times[-1] - times[0] + interval
    mean = len(times) / duration
    if not constant:
        return 1 / interval if duration / interval <= 1.5 * len(times) else mean
    named = float(stream.average_rate or 0)
    return named if abs(named - mean) <= RATE_TOLERANCE * mean else mean


def _refuse_truncated(container: InputContainer, stream: VideoStream, times: list[float], interval: float) -> None:
    """Compare what the header promises with the packets that came; a cut file ends early without an error."""
    end = times[-1] + interval
    if stream.duration and stream.time_base and stream.frames > len(times):
        begin = float((stream.start_time or 0) * stream.time_base)
        missing = begin + float(stream.duration * stream.time_base) - end
        if missing > 1.5 * interval:
            raise _damaged(f"its last {missing:.1f} s are missing")
    elif not stream.frames and container.duration and len(container.streams) == 1:
        promised = container.duration / av.time_base
        if promised - end > max(1.0, 2 * interval):
            raise _damaged(f"its last {promised - end:.1f} s are missing")


def _displayed(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width = max(1, round(frame.width * aspect))
    return (frame.height, width) if _rotation(frame) % 180 else (width, frame.height)


def _rotation(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) * 90 % 360


def _refuse_large(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        message = f"its frames have {width} x {height} pixels, at most {limits.max_pixels} in all are accepted"
        raise InvalidInput(message, code="input.too_large_frame", hint="Scale the clip down first.")


def _refuse_many(count: int, limits: Limits) -> None:
    if count > limits.max_frames:
        raise InvalidInput(f"the clip has more than {limits.max_frames} frames", code="input.too_long")


def _unreadable(path: Path, error: Exception) -> InvalidInput:
    with path.open("rb") as handle:
        head = handle.read(8)
    if head.startswith(MATROSKA) and isinstance(error, EOFError):
        return InvalidInput("the file ends before its first frame", code="input.no_frames")
    if any(head[at:].startswith(marks) for at, marks in SIGNATURES.items()):
        return _damaged("its container is broken or cut")
    names = "MP4, MOV, WebM, Matroska, AVI, MPEG-TS or GIF"
    return InvalidInput("the file is not a video", code="input.not_video", hint=f"Send {names}.")


def _damaged(reason: str) -> InvalidInput:
    hint = "Check that the file was copied completely and plays to its end."
    return InvalidInput(f"the video cannot be decoded: {reason}", code="input.decode_failed", hint=hint)
