"""What a file is that somebody sent or that was fetched: its kind by the first bytes, then by a limited subprocess.

No file name is believed; it is metadata, and every path is made by the service.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.settings import Settings

PROBE = Path(__file__).with_name("probe.py")
HEAD_BYTES = 64
PROBE_SECONDS = 30.0
NAME_LENGTH = 255
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
SEEN = ("video/", "image/")
"""What has pictures: beginnings of content types."""
TYPES = ("video/mp4", "video/quicktime", *sorted({kind for _, _, kind in MAGIC}))


class MediaRefused(Exception):
    """The file may not be used. `code` is `unsupported_media` or one of `input.*`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


@dataclass(frozen=True)
class Limits:
    """Bounds on what is accepted; the probe's own memory and processor time among them."""

    max_pixels: int
    max_duration_seconds: float
    max_frames: int
    memory_bytes: int = 2 << 30
    cpu_seconds: int = 20
    decode: Literal["first", "all"] = "first"


def limits_of(settings: Settings, **more: Any) -> Limits:
    """The bounds of an installation."""
    return Limits(settings.max_pixels, settings.max_duration_seconds, settings.max_frames, **more)


def sniff(head: bytes) -> str:
    """The content type by the first bytes. Raises MediaRefused `unsupported_media` when they are none of ours."""
    if head[4:8] == b"ftyp" and head[8:12] not in IMAGE_BRANDS:
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    for offset, magic, kind in MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    raise MediaRefused("unsupported_media", "the content is not a video, image or sound file we know")


def media_type_of(path: Path) -> str:
    """The content type of a file by its first bytes. Raises MediaRefused `unsupported_media`."""
    with path.open("rb") as file:
        return sniff(file.read(HEAD_BYTES))


def clean_name(name: str) -> str:
    """What the sender calls the file: metadata only, without folders and control characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:NAME_LENGTH]


def probe(path: Path, limits: Limits, *, seconds: float | None = None) -> dict[str, Any]:
    """Kind, size, rate and length of the file, found in a limited subprocess. Raises MediaRefused `input.*`.

    Blocks for up to `seconds` (left out, `PROBE_SECONDS`): call it from a thread.
    """
    most = PROBE_SECONDS if seconds is None else seconds
    command = [sys.executable, "-I", str(PROBE), str(path), json.dumps(asdict(limits))]
    try:
        done = subprocess.run(command, capture_output=True, timeout=most, check=False)  # noqa: S603 -- no shell
    except subprocess.TimeoutExpired:
        raise MediaRefused("input.decode_failed", f"reading it took more than {most:g} s") from None
    if done.returncode != 0:
        raise MediaRefused("input.decode_failed", "reading it failed")
    found: dict[str, Any] = json.loads(done.stdout)
    if "code" in found:
        raise MediaRefused(found["code"], found["detail"])
    return found
