"""Video files: what is written is read back; the wanted part is found by time; bad files are refused by their code."""

import math
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from models import video
from models.errors import InvalidInput, InvalidParams
from models.video import Limits

NTSC = 30000 / 1001


def counting(count, height=64, width=64):
    """Frames whose brightness tells their number: frame i is i / count grey."""
    return (torch.arange(count) / count).reshape(-1, 1, 1, 1).expand(count, 3, height, width).contiguous()


def numbers(frames, count):
    """Which of `counting(count)` each frame is."""
    return [round(value * count) for value in frames.mean((1, 2, 3)).tolist()]


def encode(path, times, *, count=None, rate=30, sound=None, codec="mpeg4", container=None, size=(64, 64), aspect=None):
    """Write grey frames at the given times (seconds) with PyAV itself, and a tone of `sound` seconds."""
    with av.open(str(path), "w", format=container) as target:
        stream = target.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        voice = target.add_stream("aac", rate=16000, layout="mono") if sound else None
        for i, time in enumerate(times):
            grey = np.full((size[1], size[0], 3), round(255 * i / (count or len(times))), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
        if voice is not None:
            tone(target, voice, sound)
    return path


def tone(target, voice, seconds):
    """Silence, except that the second half of every second is a loud 440 Hz."""
    at = np.arange(round(16000 * seconds)) / 16000
    wave = (np.sin(2 * math.pi * 440 * at) * (at % 1 >= 0.5) * 0.8).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
    target.mux(voice.encode(frame))
    target.mux(voice.encode(None))


def loudness(path, *moments):
    """The sound's largest amplitude within 0.1 s after each moment; and its length in seconds."""
    with av.open(str(path)) as source:
        parts = [(frame.time, frame.to_ndarray()[0], frame.sample_rate) for frame in source.decode(audio=0)]
    wave = np.concatenate([samples for _, samples, _ in parts])
    start, rate = parts[0][0], parts[0][2]
    picked = [wave[round((moment - start) * rate) :][: rate // 10] for moment in moments]
    return [float(np.abs(samples).max()) for samples in picked], start + len(wave) / rate


def refused(code, path, **options):
    with pytest.raises(InvalidInput) as caught:
        video.read(path, **options)
    assert caught.value.code == code


@pytest.mark.parametrize("fps", [1.0, 8.0, 12.5, 24000 / 1001, 25.0, NTSC, 60.0])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_count_rate_and_size_survive(tmp_path, fps, count):
    path = tmp_path / "clip.mp4"
    video.write(path, counting(count, 64, 128), fps)
    footage = video.read(path, width=128, height=64)
    assert footage.frames.shape == (count, 3, 64, 128)
    assert footage.fps == pytest.approx(fps, rel=1e-6)
    assert (footage.source_width, footage.source_height) == (128, 64)
    assert numbers(footage.frames, count) == list(range(count))


def test_colours_survive(tmp_path):
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0.2, 0.5, 0.8]])
    path = tmp_path / "clip.mp4"
    video.write(path, colours[:, :, None, None].expand(-1, -1, 64, 64), 5.0)
    frames = video.read(path, width=64, height=64).frames
    assert frames.min() >= 0
    assert frames.max() <= 1
    torch.testing.assert_close(frames.mean((2, 3)), colours, atol=0.02, rtol=0)


def test_players_can_begin_before_the_file_is_complete(tmp_path):
    path = tmp_path / "clip.mp4"
    video.write(path, counting(3), 5.0)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as source:
        context = source.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("h264", "yuv420p", 1, 1)


@pytest.mark.parametrize(("size", "written"), [((101, 77), (100, 76)), ((1, 1), (2, 2)), ((90, 50), (90, 50))])
def test_odd_sides_are_rounded_down(tmp_path, size, written):
    path = tmp_path / "clip.mp4"
    video.write(path, counting(2), 5.0, size=size)
    found = video.probe(path)
    assert (found.width, found.height) == written


def test_same_frames_same_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        video.write(tmp_path / name, counting(5), NTSC)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, list(range(20))),
        ({"start_seconds": 0.5}, list(range(5, 20))),
        ({"end_seconds": 0.5}, list(range(5))),
        ({"start_seconds": 0.3, "end_seconds": 0.61}, [3, 4, 5, 6]),
        ({"start_seconds": 1.5, "max_frames": 2}, [15, 16]),
        ({"max_frames": 50}, list(range(20))),
        ({"fps": 5.0}, list(range(0, 20, 2))),
        ({"fps": 20.0, "end_seconds": 0.3}, [0, 0, 1, 1, 2, 2]),
        ({"fps": 4.0, "start_seconds": 1.2}, [12, 14, 17, 19]),
        ({"fps": 10.0}, list(range(20))),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_the_wanted_part(tmp_path, suffix, options, expected):
    path = encode(tmp_path / f"clip.{suffix}", [i / 10 for i in range(20)], rate=10)
    footage = video.read(path, native_size=64, **options)
    assert numbers(footage.frames, 20) == expected
    assert footage.fps == pytest.approx(options.get("fps", 10))


def test_part_of_a_long_clip_is_sought(tmp_path):
    path = encode(tmp_path / "clip.mp4", range(50), rate=1)
    frames = video.read(path, start_seconds=40.0, max_frames=3, native_size=64).frames
    assert numbers(frames, 50) == [40, 41, 42]


def test_variable_rate_is_resampled_by_time(tmp_path):
    path = encode(tmp_path / "clip.mkv", [0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9], count=8)
    found = video.probe(path)
    assert not found.constant_rate
    footage = video.read(path, native_size=64)
    assert footage.fps == pytest.approx(10)
    assert numbers(footage.frames, 8) == [0, 1, 2, 2, 2, 3, 4, 5, 6, 7]
    assert numbers(video.read(path, fps=5.0, native_size=64).frames, 8) == [0, 2, 2, 4, 6]


def test_mostly_still_recording_takes_its_mean_rate(tmp_path):
    path = encode(tmp_path / "clip.mkv", [0, 0.1, 0.2, 3.0], count=4)
    assert video.probe(path).fps == pytest.approx(4 / 3.1, rel=1e-3)


def test_turned_recordings_come_upright(tmp_path):
    path = tmp_path / "clip.mp4"
    frames = torch.zeros(3, 3, 64, 128)
    frames[..., :32] = 1  # the left quarter is white
    video.write(path, frames, 5.0)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # the track header's matrix: turn a quarter clockwise
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    footage = video.read(path, width=64, height=128)
    assert (footage.source_width, footage.source_height) == (64, 128)
    assert footage.transform.rotation == 270
    assert footage.frames.shape == (3, 3, 128, 64)
    rows = footage.frames.mean((0, 1, 3))
    assert rows[:28].min() > 0.9  # what was left is now on top
    assert rows[36:].max() < 0.1


def test_pixels_that_are_not_square_are_shown_square(tmp_path):
    path = encode(tmp_path / "clip.mp4", [0, 0.1], aspect=Fraction(2, 1))
    assert (video.probe(path).width, video.probe(path).height) == (128, 64)


@pytest.mark.parametrize(
    ("source", "native", "expected"),
    [
        ((512, 512), 512, (512, 512)),
        ((1920, 1080), 512, (704, 384)),
        ((1080, 1920), 512, (384, 704)),
        ((128, 128), 128, (128, 128)),
        ((640, 480), 512, (576, 448)),
        ((64, 64), 512, (512, 512)),
        ((4000, 40), 128, (256, 64)),
    ],
)
def test_working_size(source, native, expected):
    assert video.working_size(*source, native) == expected


def test_working_size_as_asked():
    assert video.working_size(1920, 1080, 512, 200, 104) == (200, 104)
    assert video.working_size(1920, 1080, 512, width=512) == (512, 256)
    assert video.working_size(1080, 1920, 512, height=512) == (256, 512)


def test_sound_is_kept_in_time(tmp_path):
    source = encode(tmp_path / "clip.mp4", [i / 10 for i in range(30)], rate=10, sound=3)
    edited = tmp_path / "edited.mp4"
    assert video.probe(source).has_audio
    video.write(edited, counting(30), 10.0, audio_from=source)
    levels, seconds = loudness(edited, 0.1, 0.6, 1.1, 1.6, 2.6)
    assert [level > 0.3 for level in levels] == [False, True, False, True, True]
    assert seconds == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_is_cut_with_the_picture(tmp_path, suffix):
    source = encode(tmp_path / f"clip.{suffix}", [i / 10 for i in range(30)], rate=10, sound=3)
    edited = tmp_path / "edited.mp4"
    video.write(edited, counting(10), 10.0, audio_from=source, start_seconds=1.5)
    levels, seconds = loudness(edited, 0.2, 0.6)
    assert [level > 0.3 for level in levels] == [True, False]
    assert seconds == pytest.approx(1, abs=0.15)
    assert video.probe(edited).frames_estimate == 10


def test_sound_that_mp4_players_do_not_know_becomes_aac(tmp_path):
    source = tmp_path / "clip.mkv"
    with av.open(str(source), "w") as target:
        picture, voice = target.add_stream("mpeg4", rate=10), target.add_stream("pcm_s16le", rate=16000, layout="mono")
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            target.mux(picture.encode(frame))
        target.mux(picture.encode(None))
        at = np.arange(32000) / 16000
        wave = (np.sin(2760 * at) * (at % 1 >= 0.5) * 20000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        target.mux(voice.encode(frame))
    edited = tmp_path / "edited.mp4"
    video.write(edited, counting(10), 10.0, audio_from=source, start_seconds=0.5)
    with av.open(str(edited)) as result:
        assert result.streams.audio[0].codec_context.name == "aac"
    levels, seconds = loudness(edited, 0.2, 0.7)
    assert [level > 0.3 for level in levels] == [True, False]
    assert seconds == pytest.approx(1, abs=0.2)


def test_clip_without_sound_gives_a_clip_without_sound(tmp_path):
    source = encode(tmp_path / "clip.mp4", [0, 0.1])
    video.write(tmp_path / "edited.mp4", counting(2), 10.0, audio_from=source)
    assert not video.probe(tmp_path / "edited.mp4").has_audio


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_pictures_that_move(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    video.write(path, counting(6), 24.0, size=(40, 30))
    with Image.open(path) as image:
        assert (image.size, image.n_frames) == ((40, 30), 6)
        shown = []
        for i in range(6):
            image.seek(i)
            image.load()
            shown.append(image.info["duration"])
    assert sum(shown) == pytest.approx(250, abs=1)


def test_gif_can_be_read(tmp_path):
    path = tmp_path / "clip.gif"
    video.write(path, counting(6), 10.0)
    assert numbers(video.read(path, native_size=64).frames, 6) == list(range(6))


def test_folder_of_png_is_exact(tmp_path):
    frames = torch.rand(3, 3, 16, 24)
    video.write(tmp_path / "out" / "frames", frames, 10.0)
    names = sorted(path.name for path in (tmp_path / "out" / "frames").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png"]
    second = np.asarray(Image.open(tmp_path / "out" / "frames" / "00001.png"))
    np.testing.assert_array_equal(second, (frames[1] * 255).round().byte().permute(1, 2, 0).numpy())
    with pytest.raises(InvalidParams):
        video.write(tmp_path / "out" / "frames", frames, 10.0)


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("not a clip")
    (tmp_path / "out").mkdir()
    kept = tmp_path / "out" / "clip.mp4"
    kept.write_bytes(b"earlier")
    with pytest.raises(InvalidInput):
        video.write(kept, counting(2), 10.0, audio_from=text)
    with pytest.raises(InvalidParams):
        video.write(tmp_path / "out" / "clip.exe", counting(2), 10.0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]
    assert kept.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"this is a text file, whatever its name says\n" * 20,
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nhttp://localhost:1/a.ts\n#EXT-X-ENDLIST\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 60,
    ],
)
def test_what_is_no_video(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    refused("input.not_video", path)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as target:
        tone(target, target.add_stream("aac", rate=16000, layout="mono"), 1)
    refused("input.not_video", path)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_cut_files_are_found_out(tmp_path, suffix, keep):
    path = encode(tmp_path / f"clip.{suffix}", [i / 4 for i in range(200)], rate=4)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused("input.decode_failed", path)


@pytest.mark.parametrize("keep", [0.7, 0.9, 0.999])
def test_cut_files_are_found_out_also_when_the_index_comes_first(tmp_path, keep):
    path = tmp_path / "clip.mp4"
    video.write(path, torch.rand(20, 3, 64, 64), 10.0)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused("input.decode_failed", path)


def test_damaged_pictures_are_found_out(tmp_path):
    path = tmp_path / "clip.mp4"
    video.write(path, torch.rand(6, 3, 64, 64), 10.0)
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat") + 4
    content[begin:] = bytes(len(content) - begin)
    path.write_bytes(content)
    refused("input.decode_failed", path)


def packets(path, count, interval, size=(64, 64), payload=b"\xff\xd8\xff\xd9"):
    """A container with `count` tiny packets that need not be pictures: cheap extremes."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("mjpeg", rate=Fraction(1) / interval)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p"
        target.start_encoding()
        for i in range(count):
            packet = av.Packet(payload)
            packet.stream, packet.pts, packet.dts = stream, i, i
            packet.time_base = interval
            target.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_no_frames(tmp_path, suffix):
    refused("input.no_frames", packets(tmp_path / f"clip.{suffix}", 0, Fraction(1)))


def test_huge_frames(tmp_path):
    refused("input.too_large_frame", packets(tmp_path / "clip.mkv", 1, Fraction(1), size=(10_000, 10_000)))


def test_frames_larger_than_their_header_says(tmp_path):
    large = encode(tmp_path / "large.mkv", [0, 0.1], codec="mjpeg", size=(256, 256))
    with av.open(str(large)) as source:
        picture = bytes(next(source.demux(video=0)))
    lying = packets(tmp_path / "clip.mkv", 2, Fraction(1), payload=picture)
    with pytest.raises(InvalidInput) as caught:
        video.read(lying, limits=Limits(max_pixels=128 * 128))
    assert caught.value.code in ("input.too_large_frame", "input.decode_failed")


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_two_hours(tmp_path, suffix):
    refused("input.too_long", packets(tmp_path / f"clip.{suffix}", 7200, Fraction(1)))


def test_more_frames_than_the_limit(tmp_path):
    path = packets(tmp_path / "clip.mkv", 3000, Fraction(1, 1000))
    refused("input.too_long", path, limits=Limits(max_frames=2000))


def test_more_bytes_than_the_limit(tmp_path):
    path = encode(tmp_path / "clip.mp4", [0, 0.1])
    refused("input.too_large", path, limits=Limits(max_bytes=100))


def test_memory_is_counted_before_it_is_used(tmp_path):
    path = encode(tmp_path / "clip.mp4", [i / 10 for i in range(20)], rate=10)
    ten_frames = Limits(max_memory_bytes=10 * 5 * 3 * 64 * 64)
    refused("input.too_long", path, native_size=64, limits=ten_frames)
    assert len(video.read(path, native_size=64, max_frames=10, limits=ten_frames).frames) == 10


def test_window_outside_the_clip(tmp_path):
    path = encode(tmp_path / "clip.mp4", [0, 0.1, 0.2])
    refused("input.no_frames", path, start_seconds=5.0)
    refused("input.no_frames", path, start_seconds=0.2, end_seconds=0.1)


def test_crop_keeps_the_middle_undistorted(tmp_path):
    path = tmp_path / "wide.mp4"
    frames = torch.zeros(2, 3, 64, 192)
    frames[:, 0, :, 64:128] = 1.0  # a red square in the middle
    video.write(path, frames, 8)
    cropped = video.read(path, width=64, height=64, crop=True)
    assert cropped.frames.shape == (2, 3, 64, 64) and cropped.frames[:, 0, 8:-8, 8:-8].min() > 0.8
    assert (cropped.source_width, cropped.source_height) == (64, 64)
    assert (cropped.transform.left, cropped.transform.top, cropped.transform.region_width) == (64, 0, 64)
    whole = video.read(path, width=64, height=64)
    assert whole.frames[:, 0, :, :16].max() < 0.2 and whole.source_width == 192
