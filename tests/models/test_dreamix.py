"""Dreamix: what is degraded, what the camera shows, what learns from what, and what an edit costs."""

import pytest
import torch
from PIL import Image

from models import engine, video
from models.backbones import tiny, unet3d
from models.context import Context
from models.digest import digest_file
from models.errors import InvalidInput
from models.inversion.degraded import degraded
from models.methods.dreamix import Dreamix
from models.propagation import camera
from models.tuning import mixed, paths
from models.types import File
from models.video.picture import read_picture

STEPS, FRAMES = 3, 4
PARAMS = {"prompt": "a red bear", "num_tuning_steps": STEPS, "num_inference_steps": 4, "fit_seed": 1}


@pytest.fixture(scope="module", params=[tiny.make, unet3d.make_tiny], ids=["image", "video"])
def backbone(request):
    return request.param()


def file(path):
    return File(path, digest_file(path), path.name)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder, ramp = tmp_path_factory.mktemp("media"), torch.linspace(0, 1, 64)
    frames = [torch.stack([ramp.roll(4 * i).expand(64, 64)] * 3) for i in range(FRAMES)]
    video.write(folder / "clip.mp4", torch.stack(frames), 8)
    Image.linear_gradient("L").resize((96, 64)).save(folder / "picture.png")
    return {"video": file(folder / "clip.mp4")}, file(folder / "picture.png")


def run(backbone, inputs, **changes):
    return engine.run(Dreamix, {**PARAMS, **changes}, inputs, backbone)


def evals(result):
    return {stage.name: stage.frame_evals for stage in result.stages if stage.frame_evals}


@pytest.mark.parametrize(("share", "fit"), [(0.65, STEPS * 2 * FRAMES), (0.0, STEPS * FRAMES), (1.0, STEPS * FRAMES)])
def test_cost(backbone, media, share, fit):
    result = run(backbone, media[0], video_loss_share=share, strength=0.5)
    assert evals(result) == {"fit": fit, "edit": 2 * 2 * FRAMES}


def test_a_picture_is_animated(backbone, media):
    clip, picture = media
    result = run(backbone, {**clip, "picture": picture}, video_loss_share=0.0)
    assert result.video.frames.shape == (FRAMES, 3, 64, 64)
    assert not torch.equal(result.video.frames, run(backbone, clip, video_loss_share=0.0).video.frames)


def test_a_subject_is_learned_from_pictures(backbone, media):
    clip, picture = media
    inputs = {**clip, "pictures": (picture, picture)}
    result = run(backbone, inputs, video_loss_share=0.0, strength=1.0, subject_prompt="a photo of a robot")
    assert evals(result) == {"fit": STEPS * 2, "edit": 4 * 2 * FRAMES}


def test_at_full_strength_only_size_and_length_are_the_clip_s(backbone, media):
    """The noise is all there is at the start; how the clip was degraded cannot matter."""
    same = [run(backbone, media[0], strength=1.0, degrade_factor=factor).video.frames for factor in (1.0, 8.0)]
    other = [run(backbone, media[0], strength=0.25, degrade_factor=factor).video.frames for factor in (1.0, 8.0)]
    assert torch.equal(*same) and not torch.equal(*other)


@pytest.mark.parametrize("tuned", ["lora", "all"])
def test_tuning_learns_and_can_be_loaded(backbone, tuned):
    before = {name: weight.clone() for name, weight in backbone.unet.state_dict().items()}
    p = Dreamix.Params(**PARAMS | {"tuned": tuned, "num_tuning_steps": 30, "learning_rate": 3e-3})
    ctx, text = Context(backbone, "fit"), backbone.encode_text(["a dog"])
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    fitted = mixed.tune(ctx, p, mixed.Seen(latents, text), mixed.Seen(latents, text))
    assert fitted.losses[-10:].mean() < fitted.losses[:10].mean()
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.unet.state_dict().items())
    network = paths.over_frames(backbone.unet, FRAMES, ctx.generator(1))
    plain = backbone.predict(latents, 401, text, unet=network)
    paths.load(network, fitted.weights)
    assert not torch.allclose(backbone.predict(latents, 401, text, unet=network), plain, atol=1e-3)


def test_weights_of_all_layers_learn_from_both_losses(backbone):
    p = Dreamix.Params(**PARAMS | {"tuned": "all", "video_loss_share": 0.0})
    network, alone = paths.over_frames(backbone.unet, 2, torch.Generator()), paths.each_frame(backbone.unet)
    learning = mixed.both_learn(network, alone)
    assert {id(w) for w in alone.parameters()} <= {id(w) for w in learning}
    assert p.tuned == "all" and all(w.requires_grad for w in alone.parameters())
    assert not any(w.requires_grad for w in backbone.unet.parameters())


def test_degraded():
    noise = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    low = degraded(noise, 3.0)
    assert low.shape == noise.shape and low.std() < 0.5 * noise.std()
    assert torch.allclose(low.mean(), noise.mean(), atol=0.01)
    assert torch.equal(degraded(noise, 1.0), noise)
    held = degraded(noise, 1.0, 2)
    assert torch.equal(held[[0, 1, 2, 3, 4]], noise[[0, 0, 2, 2, 4]])


def test_camera():
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    assert torch.allclose(camera.moved(ramp, 3, "still", 0.5), ramp.expand(3, 3, 64, 64), atol=1e-5)
    zoomed = camera.moved(ramp, 3, "zoom_in", 0.5)
    assert torch.allclose(zoomed[0], ramp, atol=1e-5)
    assert torch.allclose(zoomed[2], 0.25 + ramp / 2, atol=0.01)
    assert torch.allclose(camera.moved(ramp, 3, "zoom_out", 0.5), zoomed.flip(0), atol=1e-5)
    means = camera.moved(ramp, 3, "pan_right", 0.4).mean(dim=(1, 2, 3))
    assert torch.allclose(means, torch.tensor([0.3, 0.5, 0.7]), atol=0.01)
    upright = camera.moved(ramp.transpose(1, 2), 3, "pan_up", 0.4).mean(dim=(1, 2, 3))
    assert torch.allclose(upright, torch.tensor([0.7, 0.5, 0.3]), atol=0.01)


def test_pictures(tmp_path, media):
    picture = read_picture(media[1].path, width=32, height=32)
    assert picture.shape == (3, 32, 32) and picture.min() >= 0 and 0.9 < picture.max() <= 1
    (tmp_path / "not.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    with pytest.raises(InvalidInput, match="not a picture"):
        read_picture(tmp_path / "not.png", width=32, height=32)
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    with pytest.raises(InvalidInput, match="more than 4000 pixels"):
        read_picture(tmp_path / "large.png", width=32, height=32, limits=video.Limits(max_pixels=4000))
