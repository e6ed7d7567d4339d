"""The miniature's text-to-video and grounded denoisers and its finder, on held-out scenes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models import engine
from models.backbones import companions, sd, unet3d
from models.bench import inputs
from models.bench.cases import cases
from models.conditions import grounding
from models.conditions.controlnet import Control
from models.methods.ground_a_video import GroundAVideo
from models.miniature import boxes, evaluate_motion, finder, train_control, train_finder, world
from models.miniature.recognisers import frames_of
from models.miniature.scene import Scene, caption, sample_scene
from models.schedules.ddim import Schedule, add_noise
from models.weights import MINIATURE_SOFTEDGE

HELD_OUT = 8_000_000


@pytest.fixture(scope="module")
def images():
    return sd.load("miniature")


def noise_error(backbone, latents, text, t, unet=None, control=None):
    """Mean squared error of the predicted noise."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = add_noise(Schedule.from_config(backbone.scheduler_config), latents, noise, t)
    with torch.no_grad():
        predicted = backbone.predict(noisy, t, backbone.encode_text([text]), unet=unet, control=control)
    return float((predicted - noise).square().mean())


def test_one_name_serves_every_family(images):
    loaded = {engine.find(name).backbone.family for name in engine.method_ids()}
    assert loaded == {"sd", "t2v", "grounded"}
    clips, grounded = (sd.load("miniature", family=family) for family in ("t2v", "grounded"))
    assert type(clips) is unet3d.Backbone3D and grounding.is_grounded(grounded.unet)
    assert not grounding.is_grounded(images.unet)
    assert clips.checkpoint == grounded.checkpoint == images.checkpoint == "miniature"
    assert sd.load(sd.MINIATURE_T2V).digest == clips.digest != images.digest


def test_frames_of_a_clip_help_each_other(images):
    """The text-to-video denoiser sees the noise of a held-out clip better than the image denoiser, frame by frame."""
    clips = sd.load(sd.MINIATURE_T2V)
    for seed in range(2):
        scene = sample_scene(HELD_OUT + seed)
        latents = clips.encode_frames(frames_of(world.render_frames(scene)))
        together, alone = (noise_error(each, latents, caption(scene), 500) for each in (clips, images))
        assert together < 0.95 * alone


def test_the_box_tells_the_grounded_denoiser_where_the_subject_is():
    """At a noise level where places are decided, the right box explains the picture better than a wrong one."""
    backbone = sd.load(sd.MINIATURE_GROUNDED)
    pictures, scenes, given = boxes.pictures_anywhere(range(HELD_OUT, HELD_OUT + 6))
    better = []
    for picture, scene, box in zip(frames_of(pictures), scenes, given, strict=True):
        latents, words = backbone.encode_frames(picture[None]), f"a {scene.colour} {scene.subject}"
        wrong = tuple(1 - side for side in (box[2], box[3], box[0], box[1]))  # on the other side of the picture
        errors = []
        for place in (box, wrong):
            where = grounding.objects(backbone, torch.tensor([[place]]), [words])
            network = grounding.Grounded(backbone.unet, where, None)
            errors.append(noise_error(backbone, latents, caption(scene, 1), 700, network))
        better.append(errors[0] < errors[1])
    assert sum(better) >= 5


def test_edges_tell_the_denoiser_where_things_are(images):
    """At a noise level where places are decided, a picture's edges explain it better than another's, or than none."""
    found = companions.load(images, MINIATURE_SOFTEDGE, companions.CONTROL_NETS)
    scenes = [sample_scene(HELD_OUT + index) for index in range(4)]
    pictures = [frames_of(world.render_frames(scene, 1)) for scene in scenes]
    shown = [train_control.edged(2 * picture - 1) for picture in pictures]
    steered = [Control(found.network, edges, active=frozenset([700])) for edges in (*shown, shown[0])]
    for index, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        latents, text = images.encode_frames(picture), caption(scene, 1)
        errors = [
            noise_error(images, latents, text, 700, control=one) for one in (steered[index], steered[index + 1], None)
        ]
        assert errors[0] < 0.8 * min(errors[1:])


def test_the_shipped_finder_finds_subjects_anywhere():
    assert train_finder.measure(count=64)["finder.box_iou"] >= 0.75


def test_a_track_is_that_of_the_motion_whatever_the_subject():
    drift = Scene(subject="fox", motion="drift", seed=HELD_OUT)
    one, other = (evaluate_motion.exact_track(replace(drift, subject=word)) for word in ("fox", "umbrella"))
    assert finder.track_correlation(one, other) > 0.95
    assert finder.track_correlation(one, one.flip(0)) < -0.95
    assert abs(finder.track_correlation(one, one[:1].expand(8, 4))) < 1e-3
    assert abs(finder.track_correlation(one, evaluate_motion.exact_track(replace(drift, motion="bounce")))) < 0.6


def test_the_finder_sees_the_exact_track():
    for scene in evaluate_motion.clips(4, HELD_OUT):
        seen = finder.track(finder.masks(frames_of(world.render_frames(scene))))
        assert finder.track_correlation(evaluate_motion.exact_track(scene), seen) > 0.9


def test_boxes_surround_masks():
    mask = np.zeros((8, 16), np.float32)
    mask[2:4, 4:12] = 1
    assert boxes.box_of(mask) == (0.25, 0.25, 0.75, 0.5)
    with pytest.raises(ValueError, match="empty"):
        boxes.box_of(np.zeros((8, 8), np.float32))
    assert boxes.overlap((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)
    assert boxes.overlap((0, 0, 0.2, 0.2), (0.5, 0.5, 1, 1)) == 0


@pytest.mark.parametrize("kind", ["subject", "background"])
def test_cases_give_ground_a_video_boxes_and_phrases(kind):
    case = cases(kind, 1)[0]
    given = GroundAVideo.Params(prompt=case.prompt, **inputs.params("ground_a_video", case))
    assert len(given.boxes[0]) == 8 and given.inpaint == (kind == "subject")
    assert given.phrases == (f"a {case.after.colour} {case.after.subject}",)
    exact = boxes.box_of(world.render(case.before).masks[0, 0].numpy())
    left, top, right, bottom = given.boxes[0][0]
    assert left <= exact[0] and top <= exact[1] and right >= exact[2] and bottom >= exact[3]
    assert inputs.params("tokenflow", case) == {}
