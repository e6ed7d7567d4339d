"""TokenFlow's options: what changes the result, what must not, and what may not break on odd clips."""

import pytest
import torch

from models.backbones import tiny
from models.context import Context
from models.methods.tokenflow import TokenFlow, choose_keyframes
from models.params import guarded
from models.types import Clip

FRAMES = 5
STEPS = {"num_inference_steps": 3, "num_inversion_steps": 6, "keyframe_stride": 2}


@pytest.fixture(scope="module")
def backbone():
    return tiny.make()


@pytest.fixture(scope="module")
def clip(backbone):
    frames = torch.rand(FRAMES, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Clip(frames, backbone.encode_frames(frames), 8.0, 64, 64)


@torch.no_grad()
def edit(backbone, clip, frames=FRAMES, **changes):
    clip = Clip(clip.frames[:frames], clip.latents[:, :, :frames], clip.fps, 64, 64)
    p = TokenFlow.Params(**{"prompt": "a red bear", "source_prompt": "a dog", **STEPS, **changes})
    method = TokenFlow()
    trajectory = method.invert(Context(backbone, "invert"), guarded(p, "invert"), clip, None)
    backbone.frame_evals = 0
    latents = method.edit(Context(backbone, "edit"), guarded(p, "edit"), clip, None, trajectory)
    assert latents.shape == clip.latents.shape
    assert latents.isfinite().all()
    return latents


@pytest.fixture(scope="module")
def plain(backbone, clip):
    return edit(backbone, clip)


@pytest.mark.parametrize("frames_per_pass", [1, 2, 64])
def test_frames_per_pass_changes_only_rounding(backbone, clip, plain, frames_per_pass):
    assert torch.allclose(edit(backbone, clip, frames_per_pass=frames_per_pass), plain, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"neighbour_mode": "one_sided"},
        {"keyframe_choice": "middle"},
        {"keyframe_stride": 1},
        {"attention_until": 0.0},
        {"features_until": 0.0},
        {"editor": "sdedit"},
        {"editor": "sdedit", "strength": 0.4},
        {"editor": "sdedit", "use_inversion_noise": False},
        {"guidance_scale": 1.0},
        {"negative_prompt": "snow"},
        {"seed": 1},
    ],
    ids=lambda changes: "-".join(f"{name}_{value}" for name, value in changes.items()),
)
def test_every_option_counts(backbone, clip, plain, changes):
    assert not torch.allclose(edit(backbone, clip, **changes), plain, atol=1e-4)


def test_cost_is_three_branches_of_frames_and_key_frames(backbone, clip):
    edit(backbone, clip)
    assert backbone.frame_evals == 3 * 3 * (FRAMES + 3)
    edit(backbone, clip, guidance_scale=1.0)
    assert backbone.frame_evals == 3 * 2 * (FRAMES + 3)


def test_one_frame(backbone, clip):
    edit(backbone, clip, frames=1)


@pytest.mark.parametrize(
    "steps", [{"num_inference_steps": 7}, {"num_kept_steps": 1}, {"inversion_convention": "current_t"}]
)
def test_steps_off_the_inversion_grid(backbone, clip, steps):
    edit(backbone, clip, **steps)


def test_all_key_frames_are_edited_without_propagation_error(backbone, clip):
    """With every frame a key frame, each takes its own features: the same as joint editing without propagation."""
    joint = edit(backbone, clip, keyframe_stride=1)
    one_sided = edit(backbone, clip, keyframe_stride=1, neighbour_mode="one_sided")
    assert not torch.allclose(joint, one_sided, atol=1e-4)
    assert torch.allclose(edit(backbone, clip, keyframe_stride=1, keyframe_choice="middle"), joint, atol=1e-6)


def test_one_key_frame_in_every_chunk():
    generator = torch.Generator().manual_seed(0)
    drawn = [choose_keyframes(10, 4, "random", generator) for _ in range(50)]
    assert all(len(keys) == 3 for keys in drawn)
    assert all(k // 4 == i for keys in drawn for i, k in enumerate(keys))
    assert {k for keys in drawn for k in keys} == set(range(10))
    assert choose_keyframes(10, 4, "middle", generator) == [2, 6, 9]
