"""MotionDirector as a method: both families, several clips, what it costs, and that the two sets learn apart."""

import pytest
import torch

from models import engine, video
from models.backbones import tiny, unet3d
from models.context import Context, MemoryCache
from models.digest import digest_file
from models.errors import InvalidParams
from models.methods.motion_director import MotionDirector
from models.tuning import paths
from models.tuning import spatial_temporal_lora as dual
from models.types import File

STEPS, FRAMES = 3, 4
PARAMS = {
    "prompt": "a red bear on the beach",
    "source_prompt": "a blue car",
    "num_tuning_steps": STEPS,
    "num_inversion_steps": 2,
    "num_inference_steps": 2,
    "spatial_skip_probability": 0.0,
    "fit_seed": 1,
}


@pytest.fixture(scope="module", params=[tiny.make, unet3d.make_tiny], ids=["image", "video"])
def backbone(request):
    return request.param()


def write(path, frames):
    ramp = torch.linspace(0, 1, 64)
    pictures = [torch.stack([ramp.roll(4 * i).expand(64, 64)] * 3) for i in range(frames)]
    video.write(path, torch.stack(pictures), 8)
    return File(path, digest_file(path), path.name)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {"video": write(folder / "a.mp4", FRAMES), "references": (write(folder / "b.mp4", 3),)}


def run(backbone, clips, cache=None, **changes):
    return engine.run(MotionDirector, {**PARAMS, **changes}, clips, backbone, cache=cache)


def test_one_clip_costs_what_it_says(backbone, clips):
    result = run(backbone, {"video": clips["video"]})
    evals = {stage.name: stage.frame_evals for stage in result.stages}
    assert evals == {
        "prepare": 0,
        "fit": STEPS * (FRAMES + 1),
        "invert": 2 * FRAMES,
        "edit": 2 * 2 * FRAMES,
        "decode": 0,
    }
    skipped = run(backbone, {"video": clips["video"]}, spatial_skip_probability=1.0)
    assert {stage.name: stage.frame_evals for stage in skipped.stages}["fit"] == STEPS * FRAMES


def test_without_a_noise_prior_nothing_is_inverted(backbone, clips):
    result = run(backbone, {"video": clips["video"]}, noise_prior=0.0, num_inversion_steps=0)
    assert {stage.name: stage.frame_evals for stage in result.stages}["invert"] == 0
    with pytest.raises(InvalidParams, match="num_inversion_steps"):
        run(backbone, {"video": clips["video"]}, noise_prior=0.3, num_inversion_steps=0)


def test_several_clips_share_the_motion(backbone, clips):
    result = run(backbone, clips, num_tuning_steps=6, reference_prompts=("a dog",))
    assert result.video.frames.shape == (FRAMES, 3, 64, 64)
    fit = next(stage for stage in result.stages if stage.name == "fit")
    assert 6 * 4 < fit.frame_evals < 6 * 5  # some steps saw the shorter clip
    with pytest.raises(InvalidParams, match="1 references but 2"):
        run(backbone, clips, reference_prompts=("a dog", "a cat"))


def test_scales_of_the_two_sets(backbone, clips):
    cache = MemoryCache()
    shown = {
        name: run(
            backbone, {"video": clips["video"]}, cache, learning_rate=0.05, noise_prior=0.0, **scales
        ).video.frames
        for name, scales in {
            "motion": {},
            "none": {"motion_scale": 0.0},
            "looks": {"motion_scale": 0.0, "appearance_scale": 1.0},
        }.items()
    }
    assert not torch.equal(shown["motion"], shown["none"])
    assert not torch.equal(shown["looks"], shown["none"])


def test_both_sets_learn_and_the_networks_do_not(backbone):
    before = {name: weight.clone() for name, weight in backbone.unet.state_dict().items()}
    ctx, p = Context(backbone, "fit"), MotionDirector.Params(**PARAMS | {"num_tuning_steps": 40, "learning_rate": 5e-3})
    network = paths.over_frames(backbone.unet, FRAMES, ctx.generator(0))
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    example = dual.Example(latents, backbone.encode_text(["a dog"]), network)
    fitted = dual.tune(ctx, p, [example], paths.each_frame(backbone.unet))
    again = dual.tune(ctx, p, [example], paths.each_frame(backbone.unet))
    assert all(torch.equal(again.weights[name], weight) for name, weight in fitted.weights.items())
    moved = {name for name, weight in fitted.weights.items() if "lora_B" in name and weight.any()}
    assert any(dual.SPATIAL.search(name) for name in moved) and any(dual.TEMPORAL.search(name) for name in moved)
    assert fitted.losses[-15:].mean() < fitted.losses[:15].mean()
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.unet.state_dict().items())


def test_the_second_loss_does_not_see_what_all_frames_share():
    moving = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    shared = torch.full((1, 4, 1, 2, 2), 5.0)
    change = dual.debiased(moving + shared, 1, 1.0) - dual.debiased(moving, 1, 1.0)
    assert torch.allclose(change, shared.expand_as(change) * (2**0.5 - 1), atol=1e-5)
    assert torch.equal(dual.debiased(moving, 1, 0.0), moving)
