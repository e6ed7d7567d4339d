"""Options of the methods that control attention maps: regions, tuning, no guidance, and what is refused."""

import pytest
import torch

from models import engine
from models.backbones import tiny
from models.context import Context
from models.errors import InvalidParams
from models.methods.video_p2p import blended, follow
from models.params import guarded
from models.types import Clip

FRAMES, STEPS = 3, 5
TEXT = {"prompt": "a red bear on the beach", "source_prompt": "a blue car on the beach", "num_inference_steps": STEPS}
REGION = {"blend_source_words": "car", "blend_target_words": "red bear"}


@pytest.fixture(scope="module")
def backbone():
    return tiny.make()


@pytest.fixture(scope="module")
def clip():
    latents = torch.randn(1, 4, FRAMES, 8, 12, generator=torch.Generator().manual_seed(0))
    return Clip(torch.zeros(FRAMES, 3, 64, 96), latents, 8.0, 96, 64)


def edit(method_id, backbone, clip, **options):
    """Latents of the edit, the trajectory, and evaluations of one frame for each frame while editing."""
    kind = engine.find(method_id)
    method, p = kind(), kind.Params(**TEXT, **options)

    def ask(stage, *values):
        with torch.no_grad():
            return getattr(method, stage)(Context(backbone, stage), guarded(p, stage), clip, *values)

    fitted = ask("fit")
    trajectory = ask("invert", fitted)
    before = backbone.frame_evals
    latents = ask("edit", fitted, trajectory)
    assert torch.isfinite(latents).all() and latents.shape == clip.latents.shape
    return latents, trajectory, (backbone.frame_evals - before) // FRAMES


def test_fatezero_blends_latents_with_the_inversion(backbone, clip):
    # from the second step to the last but one, no place attends more than twice the most: all is the source's
    nowhere = {**REGION, "blend_latents": True, "blend_until": 1.0, "blend_threshold": 2.0, "guidance_scale": 1.0}
    latents, trajectory, evals = edit("fatezero", backbone, clip, **nowhere)
    resumed, *_ = edit("fatezero", backbone, clip, **REGION, blend_threshold=2.0, guidance_scale=1.0)
    distances = [(z - trajectory.latents[0]).abs().mean() for z in (latents, resumed)]
    assert distances[0] < distances[1]
    assert evals == STEPS + 4  # the source's maps are used until step 0.8 of 5, also by the blend


def test_fatezero_keeps_the_region_to_itself(backbone, clip):
    whole, *_ = edit("fatezero", backbone, clip, **REGION, blend_threshold=2.0)
    inside, *_ = edit("fatezero", backbone, clip, **REGION, blend_threshold=0.0)
    none, *_ = edit("fatezero", backbone, clip, self_replace_until=0.0)
    everything, *_ = edit("fatezero", backbone, clip)
    torch.testing.assert_close(whole, everything)  # no place inside: all rows are the source's
    torch.testing.assert_close(inside, none, rtol=0, atol=1e-4)  # all places inside: none is
    assert (whole - inside).abs().max() > 1e-3


def test_fatezero_tuned(backbone, clip):
    tuned, *_ = edit("fatezero", backbone, clip, num_tuning_steps=2, learning_rate=1e-2)
    plain, *_ = edit("fatezero", backbone, clip)
    assert (tuned - plain).abs().max() > 1e-3


def test_video_p2p_is_the_source_outside_the_region(backbone, clip):
    kind = engine.find("video_p2p")
    p = kind.Params(**TEXT, **REGION)
    follower = follow(backbone.tokenizer, p, clip)
    maps = torch.full((FRAMES, 2, 8 * 12, 32), 0.01)
    maps[:, :, :20, follower.source_watch.columns.bool()] = 1.0
    follower.source_watch.see(maps)
    maps[:, :, 60:70, follower.edit_watch.columns.bool()] = 1.0
    follower.edit_watch.see(maps)
    source, edited = torch.zeros_like(clip.latents), torch.ones_like(clip.latents)
    result = blended(follower, source, edited, True, p.blend_threshold)
    assert result.unique().tolist() == [0.0, 1.0]
    assert result[0, 0, 0, 0, 0] == 1 and result[0, 0, 0, 5, 6] == 1 and result[0, 0, 0, 3, 6] == 0
    assert torch.equal(blended(follower, source, edited, False, p.blend_threshold), edited)


@pytest.mark.parametrize(
    ("options", "evals"),
    [
        # self replace in the first 2 of 5 steps, cross in the first (0.2 of 6 rows)
        ({"null_text_inner_steps": 0}, 3 * 2 + 2 * 3),
        ({"null_text_inner_steps": 1}, 4 * 2 + 2 * 3),
        ({"guidance_scale": 1.0}, 2 * 2 + 3),
        ({"null_text_inner_steps": 0, **REGION}, 3 * 5),
    ],
)
def test_video_p2p_evaluates_the_source_only_where_it_is_used(backbone, clip, options, evals):
    assert edit("video_p2p", backbone, clip, num_tuning_steps=1, **options)[2] == evals


@pytest.mark.parametrize(("scale", "evals"), [(7.5, 4 * 4 + 2), (1.0, 2 * 4 + 1)])
def test_vid2vid_zero_evaluates_the_source_only_where_it_is_used(backbone, clip, scale, evals):
    assert edit("vid2vid_zero", backbone, clip, guidance_scale=scale)[2] == evals


@pytest.mark.parametrize("method_id", ["fatezero", "video_p2p", "vid2vid_zero"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reweight": {"wolf": 2.0}}, "wolf"),
        ({"cross_replace_words": {"wolf": 0.5}}, "wolf"),
        ({"cross_replace_words": {"bear": 1.5}}, "less than or equal to 1"),
        ({"control": "replace", "prompt": "a bear"}, "6 and 2"),
        ({"source_prompt": ""}, "at least 1"),
    ],
)
def test_words_are_checked_before_anything_runs(method_id, wrong, said):
    with pytest.raises(InvalidParams) as caught:
        engine.validated(engine.find(method_id), {**TEXT, **wrong}, {})
    assert any(said in error["message"] for error in caught.value.details["errors"])


@pytest.mark.parametrize("method_id", ["fatezero", "video_p2p"])
@pytest.mark.parametrize("region", [{"blend_source_words": "car"}, {**REGION, "blend_source_words": "bear"}])
def test_regions_need_words_of_both_prompts(method_id, region):
    with pytest.raises(ValueError, match=r"blend_source_words|'bear' is not in the prompt"):
        engine.find(method_id).Params(**TEXT, **region)
