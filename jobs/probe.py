"""Reads the header and counts the packets of one untrusted media file. It runs alone in a limited subprocess.

`python -I probe.py PATH LIMITS_JSON` prints one JSON object: what the file holds, or `{"code", "detail"}` for why it
is refused. Nothing but the standard library and PyAV is imported, so it starts fast and has little to be attacked by.
Headers are not trusted: the packets are counted too, and the first picture is decoded, or with `"decode": "all"` every
one of them.
"""

import ctypes
import json
import resource
import sys
from typing import Any

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,image2,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,"
    "wav,mp3,flac,ogg"
)
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
STILL = ("image2", "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe")


class Refused(Exception):
    """The file may not be used: `code` as in the problem documents."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def confine(limits: dict[str, Any]) -> None:
    """No more memory, processor time, files or processes than a header scan needs."""
    memory, seconds = int(limits["memory_bytes"]), int(limits["cpu_seconds"])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def unplug() -> bool:
    """Leave the network, where the kernel lets an ordinary user do so. The protocol whitelist holds anyway."""
    return bool(ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK) == 0)


def check_frame(width: int, height: int, limits: dict[str, Any]) -> None:
    """Refuse pictures of more pixels than the limit."""
    if width * height > limits["max_pixels"]:
        raise Refused("input.too_large_frame", f"{width}x{height}: more than {limits['max_pixels']} pixels")


def check_length(seconds: float, frames: int, limits: dict[str, Any]) -> None:
    """Refuse clips longer than the limits, by duration or by count."""
    if seconds > limits["max_duration_seconds"]:
        raise Refused("input.too_long", f"{seconds:.1f} s: more than {limits['max_duration_seconds']:g} s")
    if frames > limits["max_frames"]:
        raise Refused("input.too_long", f"{frames} frames: more than {limits['max_frames']}")


def count_packets(container: Any, stream: Any, limits: dict[str, Any]) -> int:
    """The packets of the stream that hold data; stops at the limit. A damaged one means a damaged file."""
    count = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise Refused("input.decode_failed", f"frame {count + 1} is damaged or cut off")
        count += bool(packet.size)
        if count > limits["max_frames"]:
            raise Refused("input.too_long", f"more than {limits['max_frames']} frames")
    return count


def check_video(av: Any, path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Size, rate, length and kind of the first video stream of a container."""
    with av.open(path, options={"format_whitelist": FORMATS, "protocol_whitelist": "file"}) as container:
        stream, name = container.streams.video[0], container.format.name
        check_frame(stream.width or 0, stream.height or 0, limits)
        seconds = float(container.duration or 0) / av.time_base
        check_length(seconds, stream.frames, limits)
        found = {
            "kind": "image" if name in STILL else "video",
            "width": stream.width,
            "height": stream.height,
            "fps": float(stream.average_rate or 0),
            "duration_seconds": seconds,
            "has_audio": bool(container.streams.audio),
        }
        frames = count_packets(container, stream, limits)
        if frames == 0:
            raise Refused("input.no_frames", "the video stream holds no frames")
        if frames < stream.frames:
            raise Refused("input.decode_failed", f"{frames} of {stream.frames} frames are there")
    return found | {"frames": frames}


def decode(av: Any, path: str, limits: dict[str, Any]) -> None:
    """Pictures decode, the first or all, and size and number are within the limits whatever the header said."""
    with av.open(path, options={"format_whitelist": FORMATS, "protocol_whitelist": "file"}) as container:
        stream, count = container.streams.video[0], 0
        stream.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(limits["max_pixels"])}
        for count, frame in enumerate(container.decode(stream), start=1):
            check_frame(frame.width, frame.height, limits)
            check_length(0.0, count, limits)
            if limits.get("decode") != "all":
                break
        if not count:
            raise Refused("input.no_frames", "no picture comes out of the decoder")


def inspect(av: Any, path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """What the file holds; `Refused` if it may not be used."""
    with av.open(path, options={"format_whitelist": FORMATS, "protocol_whitelist": "file"}) as container:
        audio = container.streams.audio
        if not container.streams:
            raise Refused("input.no_frames", "the file holds no streams")
        if not container.streams.video and not audio:
            raise Refused("input.not_video", "the file holds neither pictures nor sound")
        if not container.streams.video:
            seconds = float(container.duration or 0) / av.time_base
            check_length(seconds, 0, limits)
            return {"kind": "audio", "duration_seconds": seconds, "has_audio": True}
    found = check_video(av, path, limits)
    decode(av, path, limits)
    return found


def main(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Confine the process, then look."""
    unplug()
    import av

    av.logging.set_level(av.logging.PANIC)
    confine(limits)
    try:
        return inspect(av, path, limits)
    except Refused as refused:
        return {"code": refused.code, "detail": str(refused)}
    except (av.error.FFmpegError, ValueError, IndexError, MemoryError) as broken:
        return {"code": "input.decode_failed", "detail": f"the file cannot be read as media ({type(broken).__name__})"}


if __name__ == "__main__":
    json.dump(main(sys.argv[1], json.loads(sys.argv[2])), sys.stdout)
