"""S06 to S10 and S18: files that attack the decoder, and what a file carries besides its pictures."""

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jobs import media
from jobs.media import Limits, MediaRefused, limits_of, probe
from models import video
from models.errors import InvalidInput
from tests.receiver import Silent
from workers import screen as screening
from workers.failures import explain
from workers.screen import screen
from workers.work import Fetched

SAMPLE = Path(__file__).parents[2] / "api" / "sample.mp4"
ALL = Limits(max_pixels=1 << 20, max_duration_seconds=60, max_frames=200, decode="all")
CODES = {"input.decode_failed", "input.no_frames", "input.not_video", "input.too_long", "input.too_large_frame"}


def refused(path: Path, limits: Limits = ALL) -> str:
    """The code a file is refused with."""
    with pytest.raises(MediaRefused) as error:
        probe(path, limits)
    return error.value.code


def write(path: Path, pictures: list[np.ndarray], codec: str = "libx264", **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def black(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "subtitles": "[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0:00:00.00,0:00:05.00,{}\n",
    "dash": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{}</BaseURL></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na={}\n",
    "smil": '<smil><body><video src="{}"/></body></smil>',
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("prefix", [b"", b"RIFF\x24\0\0\0AVI "])
def test_s06_a_playlist_reaches_neither_files_nor_the_network(http, tmp_path, kind, prefix):
    inside, listener = tmp_path / "secret.mp4", Silent()
    inside.write_bytes(SAMPLE.read_bytes())
    for target in (inside.as_uri(), str(inside), f"http://127.0.0.1:{listener.port}/x.ts"):
        wrapped = tmp_path / "wrapped.mp4"
        wrapped.write_bytes(prefix + PLAYLISTS[kind].format(target).encode())
        assert http.post("/v1/uploads", content=wrapped.read_bytes()).status_code in (415, 422)
        with pytest.raises(InvalidInput):
            video.probe(wrapped)
    assert refused(wrapped) in ("input.decode_failed", "input.no_frames")
    assert not listener.touched()
    listener.close()


def test_s07_a_small_file_of_huge_pictures_is_refused(http, problem, tmp_path):
    huge = write(tmp_path / "huge.mp4", [black(4096, 4096)], preset="ultrafast")
    assert huge.stat().st_size < 100_000
    problem(http.post("/v1/uploads", content=huge.read_bytes()), 422, "input.too_large_frame")
    with pytest.raises(InvalidInput) as error:
        video.read(huge)
    assert error.value.code == "input.too_large_frame"


def test_s07_pictures_larger_than_the_header_says_are_refused(tmp_path):
    """The first picture fits, a later one does not: only the decoder sees it."""
    small, large = (write(tmp_path / f"{size}.h264", [black(size, size)] * 4) for size in (64, 2048))
    joined = tmp_path / "joined.mkv"
    with av.open(str(joined), "w") as out, av.open(str(small)) as first, av.open(str(large)) as second:
        stream = out.add_stream_from_template(first.streams.video[0])
        for number, packet in enumerate([*first.demux(video=0), *second.demux(video=0)]):
            if packet.size:
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 8)
                out.mux(packet)
    patient = replace(ALL, max_duration_seconds=1e9)
    assert probe(joined, replace(patient, decode="first"))["width"] == 64
    assert refused(joined, patient) in ("input.too_large_frame", "input.decode_failed")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "gif"])
def test_s08_more_frames_than_allowed_are_counted_whatever_the_header_says(http, problem, tmp_path, suffix):
    codec = {"avi": "mpeg4", "gif": "gif"}.get(suffix, "libx264")
    path = tmp_path / f"long.{suffix}"
    if codec == "gif":
        frames = [Image.fromarray(np.full((8, 8, 3), n % 256, np.uint8)) for n in range(240)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=20)
    else:
        write(path, [black(16, 16)] * 240, codec)
    problem(http.post("/v1/uploads", content=path.read_bytes()), 422, "input.too_long")
    with video.limited(video.Limits(max_frames=200)), pytest.raises(InvalidInput) as error:
        video.read(path)
    assert error.value.code == "input.too_long"


def test_s08_the_limits_of_the_installation_reach_the_decoder(settings):
    bounds = screening.limits(settings)
    assert (bounds.max_frames, bounds.max_pixels) == (settings.max_frames, settings.max_pixels)
    with video.limited(video.Limits(max_frames=1)), pytest.raises(InvalidInput):
        video.probe(SAMPLE)
    assert video.probe(SAMPLE).frames_estimate > 1


def corpus(folder: Path) -> dict[str, bytes]:
    """Files that are broken in many ways, the same at every run."""
    whole, chance = SAMPLE.read_bytes(), random.Random(9)
    found = {"empty": b"", "one byte": b"\0", "zeros": bytes(4096), "text": b"a" * 4096, "ftyp": whole[:32]}
    found |= {f"cut {share}": whole[: len(whole) * share // 10] for share in (1, 5, 9)}
    for number in range(6):
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[chance.randrange(4, len(damaged))] = chance.randrange(256)
        found[f"noise {number}"] = bytes(damaged)
    for name in (b"moov", b"stsz", b"stco", b"mdat", b"trak"):
        at = whole.find(name)
        found[f"atom {name!r}"] = whole[: at - 4] + b"\xff\xff\xff\xff" + whole[at:]
    nested = b""
    for _ in range(2000):
        nested = (len(nested) + 8).to_bytes(4, "big") + b"moov" + nested
    return found | {"nested atoms": whole[:32] + nested}


def test_s09_nothing_malformed_comes_through_without_a_code(tmp_path, settings):
    codes = set()
    for name, content in corpus(tmp_path).items():
        path = tmp_path / "one.mp4"
        path.write_bytes(content)
        try:
            probe(path, ALL)
        except MediaRefused as error:
            codes.add(error.code)
            assert error.code in CODES, name
        try:
            video.read(path, max_frames=4)
        except InvalidInput as error:
            assert error.code in CODES, name
    assert "input.decode_failed" in codes


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """The boxes of an MP4: kind and whole content."""
    found, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at : at + size]))
        at += size
    return found


def test_s09_a_file_of_very_many_streams_is_refused_or_read_within_bounds(tmp_path):
    whole = dict(boxes(SAMPLE.read_bytes()))
    inner = b"".join(content * (10_000 if kind == b"trak" else 1) for kind, content in boxes(whole[b"moov"][8:]))
    whole[b"moov"] = (len(inner) + 8).to_bytes(4, "big") + b"moov" + inner
    path = tmp_path / "streams.mp4"
    path.write_bytes(b"".join(whole.values()))
    assert refused(path) in CODES


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write(path, [black(64, 64)] * 3, "libx264", **{"x264-params": "log-level=none"}),
        lambda path: write(path.with_suffix(".webm"), [black(64, 64)] * 3, "libvpx-vp9"),
        lambda path: write(path.with_suffix(".avi"), [black(64, 64)] * 3, "mpeg4"),
    ],
)
def test_s09_sound_files_of_many_kinds_come_through(tmp_path, make):
    assert probe(make(tmp_path / "clip.mp4"), ALL)["frames"] == 3


CRASHES = {
    "aborts": "import os; os.abort()",
    "hangs": "import time; time.sleep(60)",
    "spins": "while True: pass",
    "eats memory": "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 29, 1 << 29)); b'0' * (1 << 30)",
    "says nonsense": "raise SystemExit(3)",
}


@pytest.mark.parametrize("how", CRASHES)
def test_s09_a_decoder_that_dies_costs_the_job_and_not_the_worker(tmp_path, settings, monkeypatch, how):
    """What a file could make of the decoder, done by a stand-in."""
    program = tmp_path / "probe.py"
    program.write_text(CRASHES[how])
    monkeypatch.setattr(media, "PROBE", program)
    monkeypatch.setattr(screening, "SECONDS", 1.0)
    monkeypatch.setattr(screening, "_passed", {})
    with pytest.raises(MediaRefused) as error:
        screen({"video": Fetched(SAMPLE, "d" * 64, "clip.mp4")}, settings)
    told = explain(error.value, stage="fetch")
    assert (told.code, told.retryable) == ("input.decode_failed", False)


def test_s09_the_probe_is_confined():
    """Memory, processor time, file size and processes, as the process itself sees them after it has confined itself."""
    program = (
        f"import sys; sys.path.insert(0, {str(media.PROBE.parent)!r}); import probe, resource as r;"
        "probe.confine({'memory_bytes': 1 << 30, 'cpu_seconds': 7});"
        "print([r.getrlimit(k)[1] for k in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_NPROC)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[1073741824,", "7,", "65536,", "0]"]


def test_s09_the_probe_has_no_network_where_the_kernel_allows_it():
    program = (
        f"import sys; sys.path.insert(0, {str(media.PROBE.parent)!r}); import probe, socket;"
        "print(probe.unplug(), [name for _, name in socket.if_nameindex()])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True ['lo']" or done.stdout.startswith("False")


def test_s09_what_came_through_once_is_not_decoded_again(settings, monkeypatch):
    monkeypatch.setattr(screening, "_passed", {})
    given = {"video": Fetched(SAMPLE, "e" * 64, "clip.mp4")}
    screen(given, settings)
    monkeypatch.setattr(screening, "probe", None)
    screen(given, settings)


NAMES = [
    "../../etc/x",
    "/etc/passwd",
    "..\\..\\x",
    "a\0b.mp4",
    "x" * 4096,
    "ключ\u202e4pm.exe",
    "a\r\nX-Evil: 1",
    ".",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_s10_a_name_is_metadata_and_never_a_path(http, settings, clip, name):
    answer = http.post("/v1/uploads", content=clip.read_bytes(), headers={"Refilm-Filename": quote(name)[:3000]})
    assert answer.status_code == 201
    asset = answer.json()
    assert not set(asset["name"]) & set("/\\\0\r\n") and len(asset["name"]) <= 255
    written = [path for path in settings.data_dir.rglob("*") if path.is_file()]
    assert written and all(path.is_relative_to(settings.data_dir / "store" / "assets" / "alpha") for path in written)
    assert all(asset["id"] in path.name or asset["sha256"] in path.name for path in written)
    served = http.get(asset["urls"]["content"]).headers
    assert "x-evil" not in served and "\n" not in served.get("content-disposition", "")


def test_s18_nothing_but_pictures_and_sound_is_carried_over(tmp_path):
    marker = "<script>alert('xmp')</script>"
    source = tmp_path / "source.mp4"
    with av.open(str(source), "w", options={"movflags": "use_metadata_tags"}) as container:
        stream = container.add_stream("libx264", rate=8)
        sound = container.add_stream("aac", rate=16000, layout="mono")
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for name in ("title", "comment", "xmp", "location", "encoder"):
            container.metadata[name] = marker
        stream.metadata["handler_name"] = sound.metadata["handler_name"] = marker
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(black(64, 64), format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.rate = 16000
        container.mux([*stream.encode(), *sound.encode(silence), *sound.encode()])
    assert marker.encode() in source.read_bytes()
    for name in ("edited.mp4", "edited.gif", "edited.webp"):
        edited = tmp_path / name
        video.write(edited, torch.zeros(4, 3, 64, 64), 8.0, audio_from=source if name.endswith("mp4") else None)
        content = edited.read_bytes()
        assert b"script" not in content and b"xmp" not in content.lower()


def test_s18_the_limits_of_a_probe_come_from_the_settings(settings):
    found = limits_of(settings, decode="all")
    assert (found.max_frames, found.decode) == (settings.max_frames, "all")
    assert isinstance(screen, Callable)
