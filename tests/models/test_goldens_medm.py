"""MeDM: flow coding against the published code's numbers, and what the method's own correction does."""

import pytest
import torch
from torch.nn import functional

from models.backbones import tiny
from models.conditions import optical_flow
from models.context import Context
from models.methods import medm
from models.propagation import flow_coding
from models.schedules.ddim import Schedule, split
from models.types import Clip
from tests.models import recorded
from tests.models.recorded import close

CASES = sorted(path.stem for path in (recorded.GOLDEN / "medm").glob("*.json"))


@pytest.fixture(scope="module")
def backbone():
    return tiny.make()


@pytest.mark.parametrize("case", CASES)
def test_flow_coding(case):
    described, tensors = recorded.load("medm", case)
    flow = tensors["in.flow"][0].flip(-1).permute(0, 3, 1, 2)  # recorded as (dy, dx)
    coding = flow_coding.encode(flow, tensors["in.occlusion"][0], backward=described["parameters"]["backward_coding"])
    assert torch.equal(coding.ids, tensors["out.pixel_id"].long())
    assert torch.equal(coding.counts, tensors["out.count"].long())
    once = flow_coding.project(coding, tensors["in.frames"])
    close(once, tensors["out.projected"], 2e-6)
    close(flow_coding.project(coding, once), tensors["out.projected_twice"], 2e-6)


def test_coding_from_the_first_frame_is_the_mirror_image():
    _, tensors = recorded.load("medm", "flow_coding_backward_4f")
    flow = tensors["in.flow"][0].flip(-1).permute(0, 3, 1, 2)
    lost = tensors["in.occlusion"][0]
    last, first = flow_coding.encode(flow, lost), flow_coding.encode(flow.flip(0), lost.flip(0), backward=False)
    assert torch.equal(last.ids, first.ids.flip(0))


def moving_clip(backbone, count=4):
    """A picture that moves two pixels a frame."""
    texture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wide = functional.interpolate(texture, size=(64, 80), mode="bicubic").clamp(0, 1)
    frames = torch.cat([wide[..., 2 * i : 2 * i + 64] for i in range(count)])
    return Clip(frames, backbone.encode_frames(frames), 8.0, 64, 64)


def spread(coding, frames):
    """Mean difference of pixels from the mean colour of their point."""
    return (frames - flow_coding.project(coding, frames)).abs().mean().item()


@torch.no_grad()
def test_points_of_a_moving_picture_share_their_colour(backbone):
    clip = moving_clip(backbone)
    p = medm.Medm.Params(prompt="a red bear")
    coding = medm.flow_code(Context(backbone, "edit"), p, clip)
    shared = (coding.counts > 1).sum() / len(coding.counts)
    assert shared > 0.8
    noisy = (clip.frames + 0.2 * torch.randn(clip.frames.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert spread(coding, noisy) > 4 * spread(coding, clip.frames)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_correction_is_of_the_predicted_clean_clip(backbone, prediction):
    """Whatever the network predicts, correcting its output replaces x0 and keeps the latents explained."""
    config = dict(backbone.scheduler_config, prediction_type=prediction)
    schedule, generator = Schedule.from_config(config), torch.Generator().manual_seed(0)
    latents, output = (torch.randn(1, 4, 2, 8, 8, generator=generator) for _ in range(2))
    wanted = torch.randn(1, 4, 2, 8, 8, generator=generator)
    x0, eps = split(schedule, medm.corrected_output(schedule, output, latents, 501, lambda _: wanted), latents, 501)
    close(x0, wanted, 1e-4)
    alpha = schedule.alpha(501)
    close(alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps, latents, 1e-4)


@torch.no_grad()
def test_keep_detail_leaves_what_flow_leaves(backbone):
    """With nothing to average (every point is seen once) only the VAE's loss would move the latents."""
    clip = moving_clip(backbone)
    flow, lost = torch.zeros(3, 2, 64, 64), torch.ones(3, 64, 64, dtype=torch.bool)
    alone = flow_coding.encode(flow, lost)
    assert torch.equal(medm.harmonised(backbone, alone, clip.latents, 1.0, keep_detail=True), clip.latents)
    assert not torch.equal(medm.harmonised(backbone, alone, clip.latents, 1.0), clip.latents)


@torch.no_grad()
def test_harmonised_edit(backbone):
    """The edit follows the correction, which every step but the last makes, and counts what it runs."""
    clip, ctx = moving_clip(backbone), Context(backbone, "edit")
    edits = {}
    for scale in (0.0, 1.0):
        p = medm.Medm.Params(prompt="a red bear", num_inference_steps=5, harmonisation_scale=scale)
        backbone.frame_evals = 0
        edits[scale] = medm.Medm().edit(ctx, p, clip, None, None)
        assert backbone.frame_evals == 4 * 2 * 4  # 0.8 of five steps, two branches, four frames
    assert not torch.equal(edits[0.0], edits[1.0])
    single = medm.Medm.Params(prompt="a red bear", num_inference_steps=1)
    plain = medm.Medm.Params(prompt="a red bear", num_inference_steps=1, harmonisation_scale=0.0)
    assert torch.equal(medm.Medm().edit(ctx, single, clip, None, None), medm.Medm().edit(ctx, plain, clip, None, None))


def test_occlusion_of_a_covered_place():
    """A pixel that a nearer thing covers next is lost; the flow back from there belongs to the other thing."""
    forward, backward = torch.zeros(1, 2, 16, 32), torch.zeros(1, 2, 16, 32)
    forward[:, 0, :, 4:12] = 6.0
    backward[:, 0, :, 10:18] = -6.0
    lost = optical_flow.occluded(forward, backward)[0]
    assert lost[:, 12:18].all() and not lost[:, 4:12].any() and not lost[:, :4].any()
