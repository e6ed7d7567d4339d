"""What the engine tells besides the video: words a checkpoint does not see, footage it was not made for."""

import pytest
import torch

from models import video
from models.backbones import tiny, vocabulary
from models.context import Context
from models.digest import digest_file
from models.errors import MissingCondition, all_codes
from models.method import require, validated, warn_outside_domain, warn_unread_words
from models.methods.frame_by_frame import FrameByFrame
from models.miniature import scene, text
from models.params import StageViolation, guarded
from models.types import Clip, File, Fitted, Trajectory, pack, unpack


@pytest.fixture(scope="module")
def words():
    return text.build_tokenizer(scene.WORDS)


def test_unknown_words_are_named_once_and_byte_pairs_know_all(words):
    assert vocabulary.unknown_words(words, "A red fox, a Zebra and a zebra.") == ["zebra"]
    assert vocabulary.unknown_words(tiny.make_tokenizer(), "a zebra") == []


def test_the_end_of_a_long_prompt_is_named(words):
    long = "a red fox in a meadow " * 5 + "drifting"
    cut = vocabulary.cut_words(words, long)
    assert cut and long.endswith(cut) and "drifting" in cut
    assert vocabulary.cut_words(words, "a red fox") == ""


def test_unread_words_of_every_prompt_become_warnings(words):
    backbone = tiny.make()
    backbone.tokenizer = words
    p, _ = validated(FrameByFrame, {"prompt": "a quixotic fox", "source_prompt": "a fox"}, {"video": File("x", "")})
    ctx = Context(backbone, "prepare")
    warn_unread_words(ctx, p)
    assert [warning.code for warning in ctx.warnings] == ["unknown_words"] and "quixotic" in ctx.warnings[0].message


def test_footage_the_vae_cannot_reproduce_is_warned_about():
    backbone = tiny.make()
    backbone.domain_psnr_floor = 60.0
    frames = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ctx = Context(backbone, "prepare")
    warn_outside_domain(ctx, frames, backbone.encode_frames(frames))
    assert ctx.warnings[0].code == "outside_checkpoint_domain" and "sd15" in ctx.warnings[0].message


def test_a_stage_cannot_read_a_later_stage():
    p, _ = validated(FrameByFrame, {"prompt": "a fox"}, {"video": File("x", "")})
    early = guarded(p, "invert")
    assert early.num_inversion_steps == 50
    with pytest.raises(StageViolation, match="edit"):
        _ = early.prompt


def test_artifacts_survive_storage():
    clip = Clip(torch.rand(2, 3, 8, 8), torch.rand(1, 4, 2, 1, 1), 8.0, 8, 8)
    path = Trajectory(torch.rand(3, 1, 4, 2, 1, 1), torch.tensor([1, 2]))
    for value in (clip, path, Fitted({"a.b": torch.rand(2)})):
        back = unpack(type(value), *pack(value))
        assert str(back) == str(value)
    with pytest.raises(ValueError, match="Clip"):
        unpack(Clip, *pack(path))


def test_a_missing_file_is_named():
    with pytest.raises(MissingCondition, match="mask"):
        require(Context(tiny.make(), "edit"), "mask")


def test_every_error_code_belongs_to_one_class():
    assert {"input.not_video", "validation_failed", "model.integrity", "canceled"} <= set(all_codes())


def test_conditions_are_computed_once_per_clip(tmp_path):
    from models.context import MemoryCache

    calls = []

    def brightness(clip):
        calls.append(1)
        return clip.frames.mean((1, 2, 3))

    clip = Clip(torch.rand(2, 3, 8, 8), torch.rand(1, 4, 2, 1, 1), 8.0, 8, 8)
    ctx = Context(tiny.make(), "edit", cache=MemoryCache(), clip_key="k")
    first, second = ctx.condition(brightness, clip), ctx.condition(brightness, clip)
    assert len(calls) == 1 and torch.equal(first, second)


def test_written_video_reads_back(tmp_path):
    path = tmp_path / "clip.mp4"
    video.write(path, torch.full((3, 3, 64, 64), 0.5), 8)
    assert video.read(path, native_size=64).frames.shape == (3, 3, 64, 64)
    assert len(digest_file(path)) == 64
