"""The source's sound, carried over to the edited clip: copied where MP4 can hold it, else encoded as AAC."""

import logging
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet

COPIED = ("aac", "mp3", "ac3", "eac3", "alac")
RATES = (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
BIT_RATE = 192_000
CUT_SAMPLES = 1024

if TYPE_CHECKING:
    AnyPacket = Packet[Any]
else:
    AnyPacket = Packet  # generic in its stubs only

logger = logging.getLogger(__name__)


def add_stream(target: OutputContainer, source: AudioStream) -> AudioStream:
    """Add the stream that is to hold `source`'s sound to a container."""
    if source.codec_context.name in COPIED:
        return target.add_stream_from_template(source)
    rate = source.rate if source.rate in RATES else RATES[0]
    stream = target.add_stream("aac", rate=rate, layout="mono" if source.channels == 1 else "stereo")
    stream.bit_rate = BIT_RATE
    return stream


def packets(
    container: InputContainer, source: AudioStream, target: AudioStream, start_seconds: float, duration_seconds: float
) -> Iterator[AnyPacket]:
    """Packets for `target` of the window that begins at `start_seconds` on the container's clock.

    Cut at whole packets (about 20 ms), in time with the picture to the sample. Broken sound ends early with a warning
    and never costs the edit.
    """
    one = _copied if source.codec_context.name in COPIED else _encoded
    try:
        yield from one(container, source, target, start_seconds, duration_seconds)
    except FFmpegError as error:
        logger.warning("the sound of the source is damaged and ends early: %s", error.strerror)


def _copied(
    container: InputContainer, source: AudioStream, target: AudioStream, start: float, duration: float
) -> Iterator[AnyPacket]:
    for packet in container.demux(source):
        if packet.pts is None or packet.time_base is None or not packet.size:
            continue
        shift = round(start / packet.time_base)
        if packet.pts < shift:
            continue
        if (packet.pts - shift) * packet.time_base >= duration:
            return
        packet.pts -= shift
        packet.dts = packet.pts
        packet.stream = target
        yield packet


def _encoded(
    container: InputContainer, source: AudioStream, target: AudioStream, start: float, duration: float
) -> Iterator[AnyPacket]:
    resampler = av.AudioResampler(target.format, target.layout, target.rate, frame_size=CUT_SAMPLES)
    shift = round(start * target.rate)
    for frame in chain(container.decode(source), [None]):
        for part in resampler.resample(frame):
            part.pts = (part.pts or 0) - shift
            if 0 <= part.pts < duration * target.rate:
                yield from target.encode(part)
        if frame is not None and (frame.time or 0) >= start + duration:
            break
    yield from target.encode(None)
