"""What an upload is: its kind by the first bytes, then its header by a limited subprocess. No file name is believed."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from api.errors import Problem

PROBE = Path(__file__).with_name("probe.py")
HEAD_BYTES = 64
PROBE_SECONDS = 30
IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1")
MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
)
TYPES = ("video/mp4", "video/quicktime", *sorted({kind for _, _, kind in MAGIC}))


@dataclass(frozen=True)
class Limits:
    """Bounds on what is accepted; the probe's own memory and processor time among them."""

    max_pixels: int
    max_duration_seconds: float
    max_frames: int
    memory_bytes: int = 2 << 30
    cpu_seconds: int = 20


def sniff(head: bytes) -> str:
    """The content type by the first bytes; `unsupported_media` when they are none of ours."""
    if head[4:8] == b"ftyp" and head[8:12] not in IMAGE_BRANDS:
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    for offset, magic, kind in MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    raise Problem("unsupported_media", "the content is not a video, image or sound file we know")


def probe(path: Path, limits: Limits) -> dict[str, Any]:
    """Kind, size, rate and length of the file, found in a limited subprocess; a `Problem` `input.*` if refused.

    Blocks for up to `PROBE_SECONDS`: call it from a thread.
    """
    command = [sys.executable, "-I", str(PROBE), str(path), json.dumps(asdict(limits))]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise Problem("input.decode_failed", f"reading its header took more than {PROBE_SECONDS} s") from None
    if done.returncode != 0:
        raise Problem("input.decode_failed", "reading its header failed")
    found: dict[str, Any] = json.loads(done.stdout)
    if "code" in found:
        raise Problem(found["code"], found["detail"])
    return found
