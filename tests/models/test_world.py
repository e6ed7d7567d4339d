"""The miniature world: determinism, its grammar both ways, and ground truth that agrees with the pixels."""

import itertools
import subprocess
import sys
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch

from models.miniature import scene as grammar
from models.miniature.geometry import Sheet, labels, step
from models.miniature.motion import pan, pose
from models.miniature.scene import ATTRIBUTES, CAPTION_VARIANTS, Scene, caption, edited, parse, sample_scene
from models.miniature.sprites import RGB, sprite
from models.miniature.world import Render, render, render_frames, render_pictures


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2) + 1e-12))


def warped(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`picture` (h, w, c) fetched at x + flow(x), flow (2, h, w)."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return cv2.remap(picture, x + flow[0], y + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def pictures(clip: Render) -> np.ndarray:
    return clip.frames.permute(0, 2, 3, 1).numpy()


def test_shapes_and_ranges() -> None:
    clip = render(sample_scene(1), frames=3, size=64, points=10)
    assert clip.frames.shape == (3, 3, 64, 64)
    assert clip.masks.shape == clip.depth.shape == clip.edges.shape == (3, 1, 64, 64)
    assert clip.flow_forward.shape == clip.flow_backward.shape == (2, 2, 64, 64)
    assert clip.occlusion_forward.shape == clip.occlusion_backward.shape == (2, 1, 64, 64)
    assert clip.tracks.shape == (3, 10, 2)
    assert clip.visible.shape == (3, 10)
    for name in ("frames", "masks", "depth", "occlusion_forward", "visible", "edges"):
        values = getattr(clip, name)
        assert values.dtype == torch.float32
        assert 0 <= values.min() <= values.max() <= 1


def test_one_frame_has_no_flow() -> None:
    assert render(Scene(), frames=1, size=32).flow_forward.shape == (0, 2, 32, 32)


def test_same_seed_same_clip_also_in_another_process() -> None:
    scene = sample_scene(5)
    assert sample_scene(5) == scene
    first, again = render(scene, 3, 48), render(scene, 3, 48)
    assert all(torch.equal(getattr(first, f.name), getattr(again, f.name)) for f in fields(Render))
    code = "from models.miniature.scene import *; print(sample_scene(5), generator('x', 1).random())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == f"{scene} {grammar.generator('x', 1).random()}"


def test_frames_alone_are_the_same_frames() -> None:
    scene = sample_scene(11)
    full = (pictures(render(scene, 4, 64)) * 255 + 0.5).astype(np.uint8)
    assert np.array_equal(full, render_frames(scene, 4, 64))


def test_random_pictures_show_their_scenes() -> None:
    batch, scenes = render_pictures([3, 4], size=32)
    assert batch.shape == (2, 32, 32, 3)
    assert batch.dtype == np.uint8
    assert scenes == [sample_scene(3), sample_scene(4)]
    assert np.array_equal(batch[1], render_pictures([4], size=32)[0][0])


@pytest.mark.parametrize("variant", range(CAPTION_VARIANTS))
def test_captions_are_understood(variant: int) -> None:
    named = {"style", "colour", "subject", "background"}
    named |= {0: {"motion"}, 2: {"motion", "camera"}, 4: {"motion"}}.get(variant, set())
    for seed in range(300):
        scene = sample_scene(seed)
        text = caption(scene, variant)
        assert parse(text) == {name: getattr(scene, name) for name in named}, text
        assert set(text.replace(",", "").split()) <= set(grammar.WORDS)


def test_every_scene_of_the_grammar_survives_its_caption() -> None:
    for values in itertools.product(*(ATTRIBUTES[name] for name in ("style", "colour", "subject", "background"))):
        scene = Scene(*values, motion="spin", camera="pan", seed=3)
        assert edited(Scene(seed=3), caption(scene, 2)) == scene


def test_parser_tolerates_order_unknown_words_and_synonyms() -> None:
    assert parse("Underwater: two crimson KITTENS, watercolor!") == {
        "background": "ocean", "colour": "red", "subject": "cat", "style": "watercolour",
    }  # fmt: skip
    assert parse("zebra on the moon") == {}
    assert parse("a blue car, not the red one")["colour"] == "blue"


def test_edit_keeps_what_the_text_does_not_name() -> None:
    scene = Scene("photo", "red", "fox", "forest", "arc", "pan", seed=9)
    target = edited(scene, "a blue owl")
    assert target == replace(scene, colour="blue", subject="owl")
    assert [pose(target, t / 7) for t in range(8)] == [pose(scene, t / 7) for t in range(8)]
    assert pan(target, 0.9) == pan(scene, 0.9) != 0


def test_colour_edit_changes_the_subject_only() -> None:
    scene = Scene("photo", "red", "fox", "forest", "drift", "pan", seed=2)
    a, b = render(scene, 3, 64), render(edited(scene, "green"), 3, 64)
    assert torch.equal(a.masks, b.masks)
    assert torch.equal(a.flow_forward, b.flow_forward)
    changed = (a.frames - b.frames).abs().amax(1, keepdim=True) > 0.02
    assert not changed[a.masks == 0].any()
    assert changed[a.masks > 0.95].float().mean() > 0.5


def test_words_outside_the_world_are_refused() -> None:
    with pytest.raises(ValueError, match="subject must be one of"):
        Scene(subject="zebra")


@pytest.mark.parametrize("subject", grammar.SUBJECTS)
def test_subject_takes_its_colour(subject: str) -> None:
    for colour, wanted in RGB.items():
        picture = sprite(subject, colour)
        solid = picture[..., :3][picture[..., 3] > 0.98]
        chroma = np.median(solid - solid.mean(1, keepdims=True), axis=0)
        assert np.linalg.norm(chroma - (np.array(wanted) - np.mean(wanted))) < 0.28, colour


def test_all_colours_and_all_subjects_differ() -> None:
    stack = np.stack([sprite(s, c) for s in grammar.SUBJECTS for c in grammar.COLOURS])
    apart = np.abs(stack[:, None, ::4, ::4] - stack[None, :, ::4, ::4]).mean((2, 3, 4))
    assert apart[~np.eye(len(stack), dtype=bool)].min() > 0.015


@pytest.mark.parametrize("motion", grammar.MOTIONS)
@pytest.mark.parametrize("background", ["forest", "ocean"])
def test_flow_fetches_the_next_frame_outside_occlusion(motion: str, background: str) -> None:
    scene = Scene("photo", "yellow", "elephant", background, motion, "pan", seed=4)
    clip = render(scene, 8, 128)
    frames = pictures(clip)
    for i in range(7):
        for here, there, flow, hidden in (
            (i, i + 1, clip.flow_forward[i], clip.occlusion_forward[i]),
            (i + 1, i, clip.flow_backward[i], clip.occlusion_backward[i]),
        ):
            open_ = hidden[0].numpy() == 0
            fetched = warped(frames[there], flow.numpy())
            assert psnr(fetched[open_], frames[here][open_]) > 27
            assert psnr(fetched[open_], frames[here][open_]) > psnr(frames[there][open_], frames[here][open_]) + 2
            assert 0.5 < open_.mean() < 1


def test_flow_there_and_back_cancels() -> None:
    clip = render(Scene(motion="spin", camera="pan", seed=6), 4, 96)
    for ahead, back, hidden in zip(clip.flow_forward, clip.flow_backward, clip.occlusion_forward, strict=True):
        ahead = ahead.numpy()
        there = warped(back.permute(1, 2, 0).numpy(), ahead).transpose(2, 0, 1)
        error = np.linalg.norm(ahead + there, axis=0)[hidden[0].numpy() == 0]
        assert np.median(error) < 0.01
        # bilinear samples that straddle two layers mix their flows
        assert np.mean(error > 1) < 0.05


def test_occlusion_is_what_the_subject_covers_next() -> None:
    cover = np.zeros((2, 8, 8), np.float32)
    cover[0, 2:6, 0:2] = cover[1, 2:6, 3:5] = 1
    still, moved = np.tile(np.eye(3), (2, 1, 1)), np.tile(np.eye(3), (2, 1, 1))
    moved[1, 0, 2] = 3
    sheets = [Sheet(np.ones((2, 8, 8), np.float32), still, 1.0), Sheet(cover, moved, 0.2)]
    seen = labels(sheets)
    found = step(sheets, seen, 0, 1)
    assert np.array_equal(found.occlusion[0], cover[1])
    assert np.array_equal(found.flow[0], 3 * cover[0])
    assert np.array_equal(step(sheets, seen, 1, 0).occlusion[0], cover[0])


def test_mask_is_where_the_subject_changes_the_picture() -> None:
    scene = Scene("photo", "purple", "turtle", "desert", "bounce", "pan", seed=8)
    a, b = render(scene, 4, 96), render(replace(scene, subject="boat"), 4, 96)
    union = torch.maximum(a.masks, b.masks)
    changed = (a.frames - b.frames).abs().amax(1, keepdim=True) > 0.004
    assert not changed[union == 0].any()
    only = (a.masks > 0.9) & (b.masks == 0)
    assert only.any()
    assert changed[only].float().mean() > 0.97


def test_depth_puts_the_subject_before_the_scenery() -> None:
    clip = render(Scene(background="meadow", camera="pan", seed=1), 2, 64)
    inside = clip.masks > 0.6
    assert clip.depth[inside].max() < clip.depth[clip.masks < 0.4].min()
    assert clip.depth[0, 0, 0, 0] > clip.depth[0, 0, -1, 0]


def test_tracks_follow_the_flow() -> None:
    clip = render(Scene("photo", "red", "owl", "city", "arc", "pan", seed=3), 6, 128, points=64)
    for i in range(5):
        shown = (clip.visible[i] * clip.visible[i + 1]).bool()
        at = clip.tracks[i][shown].round().long().clamp(0, 127)
        flow = clip.flow_forward[i][:, at[:, 1], at[:, 0]].T
        error = (clip.tracks[i + 1] - clip.tracks[i])[shown] - flow
        assert error.norm(dim=1).median() < 0.1
        assert shown.float().mean() > 0.5
    assert clip.visible[0].all()
    assert not clip.visible.all()


def test_edges_lie_on_the_outline() -> None:
    clip = render(Scene("photo", "blue", "balloon", "snow", seed=1), 1, 128)
    mask = (clip.masks[0, 0] > 0.5).numpy().astype(np.uint8)
    rim = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    near = cv2.dilate(clip.edges[0, 0].numpy(), np.ones((5, 5), np.uint8)) > 0
    assert near[rim].mean() > 0.9
    assert clip.edges.mean() < 0.25


@pytest.mark.parametrize("attribute", ["style", "background"])
def test_every_look_and_place_is_distinct(attribute: str) -> None:
    base = Scene("photo", "red", "fox", "beach", seed=1)
    looks = [render_frames(replace(base, **{attribute: value}), 1, 64)[0] / 255.0 for value in ATTRIBUTES[attribute]]
    assert min(psnr(a, b) for a, b in itertools.combinations(looks, 2)) < 15
    assert max(psnr(a, b) for a, b in itertools.combinations(looks, 2)) < 21


def test_sizes_show_the_same_scene() -> None:
    scene = Scene("photo", "green", "teapot", "meadow", "zoom", "pan", seed=5)
    large, small = render_frames(scene, 3, 256), render_frames(scene, 3, 64)
    for a, b in zip(large, small, strict=True):
        reduced = cv2.resize(a, (64, 64), interpolation=cv2.INTER_AREA)
        assert psnr(reduced / 255.0, b / 255.0) > 24


@pytest.mark.parametrize("background", ["city", "forest"])
def test_scenery_moves_with_the_camera(background: str) -> None:
    clip = render(Scene("photo", "red", "fox", background, "spin", "pan", seed=12), 8, 128)
    frames = pictures(clip)
    # occluded pixels count too: a wrong direction would make occlusion hide its own mistakes
    scenery = ((clip.masks[0, 0] < 0.01) & (clip.flow_forward[0, 0] != 0)).numpy()
    moved = np.abs(warped(frames[1], clip.flow_forward[0].numpy()) - frames[0])[scenery].max(1)
    stayed = np.abs(frames[1] - frames[0])[scenery].max(1)
    # the vignette stands still, so only pixels that an outline has passed tell
    passed = stayed > 0.1
    assert passed.sum() > 100
    assert np.median(moved[passed]) < 0.5 * np.median(stayed[passed])


def test_what_leaves_the_frame_is_occluded() -> None:
    clip = render(Scene(background="forest", camera="pan", seed=12), 2, 64)
    x = torch.arange(64) + clip.flow_forward[0, 0]
    left = (x < -0.5) | (x > 63.5)
    assert left.any()
    assert clip.occlusion_forward[0, 0][left].all()


def test_half_of_the_tracks_start_on_the_subject() -> None:
    clip = render(Scene("photo", "red", "car", "beach", seed=2), 1, 64, points=20)
    at = clip.tracks[0].long()
    assert (clip.masks[0, 0][at[:, 1], at[:, 0]] >= 0.5).sum() >= 10
