"""InFusion by its reductions: what it is when phases are left out, and when both prompts are the same."""

import pytest
import torch

from models.attention.installed import attend
from models.backbones import tiny
from models.context import Context
from models.controls import phases, words
from models.controls.blend import region
from models.controls.cross import CrossEdit
from models.controls.follow import Follower
from models.controls.record import Layers, Watch
from models.features import difference
from models.guidance import cfg
from models.methods import infusion
from models.methods.infusion import InFusion
from models.schedules.ddim import Schedule, step
from models.tuning import paths
from models.types import Clip

STEPS, FRAMES = 6, 3
SOURCE, TARGET = "a blue car on the road", "a red bear on the road"


@pytest.fixture(scope="module")
def backbone():
    return tiny.make()


@pytest.fixture(scope="module")
def clip():
    latents = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    return Clip(torch.zeros(FRAMES, 3, 64, 64), latents, 8.0, 64, 64)


def params(**changes):
    given = {"source_prompt": SOURCE, "prompt": TARGET, "num_inference_steps": STEPS}
    given |= {"num_feature_steps": 2, "num_attention_steps": 2}
    return InFusion.Params(**given | changes)


@torch.no_grad()
def edited(backbone, clip, **changes):
    p, method = params(**changes), InFusion()
    trajectory = method.invert(Context(backbone, "invert"), p, clip, None)
    backbone.frame_evals = 0
    return method.edit(Context(backbone, "edit"), p, clip, None, trajectory), trajectory


@torch.no_grad()
def sampled(backbone, clip, trajectory, prompt, guidance_scale=7.5):
    """Plain sampling from the inverted noise."""
    network, policies = infusion.inflate(Context(backbone, "edit"), params(), clip)
    schedule = Schedule.from_config(backbone.scheduler_config)
    text = cfg.encode(backbone, prompt, "", guidance_scale)
    latents = trajectory.latents[-1]
    with infusion.routed(network, policies):
        for t in schedule.timesteps(STEPS):
            output = cfg.guided(paths.denoiser(backbone, network), latents, t, text, guidance_scale)
            latents = step(schedule, output, latents, level=t, to=t - schedule.stride(STEPS))
    return latents


NONE = {"num_feature_steps": 0, "num_attention_steps": 0}


def test_without_phases_and_with_all_inside_it_is_plain_sampling(backbone, clip):
    changes = {**NONE, "fuse_cross_attention": False, "mask_threshold": 0.0}
    latents, trajectory = edited(backbone, clip, **changes)
    plain = sampled(backbone, clip, trajectory, TARGET)
    torch.testing.assert_close(latents, plain, rtol=0, atol=1e-4)
    bare, _ = edited(backbone, clip, **NONE, fuse_cross_attention=False, fuse_self_attention=False)
    torch.testing.assert_close(bare, plain, rtol=0, atol=1e-4)
    assert backbone.frame_evals == STEPS * 2 * FRAMES  # no source where nothing is fused


def test_equal_prompts_reproduce_the_source_branch(backbone, clip):
    latents, trajectory = edited(backbone, clip, prompt=SOURCE, guidance_scale=1.0, mask_threshold=2.0)
    source = sampled(backbone, clip, trajectory, SOURCE, 1.0)
    torch.testing.assert_close(latents, source, rtol=0, atol=1e-4)


def test_cost(backbone, clip):
    edited(backbone, clip)
    assert backbone.frame_evals == STEPS * 3 * FRAMES
    edited(backbone, clip, guidance_scale=1.0)
    assert backbone.frame_evals == STEPS * 2 * FRAMES


@pytest.mark.parametrize(
    "changes",
    [
        {"num_feature_steps": 0},
        {"feature_strength": 0.5},
        {"feature_blocks": (2,)},
        {"num_attention_steps": 0},
        {"fuse_cross_attention": False},
        {"fuse_self_attention": False},
        {"target_words": "on"},
        {"source_words": "on"},
        {"frame_indices": ()},
        {"norm_over_frames": True},
        {"max_attention_queries": 16},
    ],
)
def test_every_choice_matters(backbone, clip, changes):
    even = {"mask_threshold": 0.999}  # attention of random weights is nearly even
    assert not torch.equal(edited(backbone, clip, **even)[0], edited(backbone, clip, **even, **changes)[0])


def test_the_words_that_differ(backbone):
    source, target = words.tokenise(backbone.tokenizer, SOURCE), words.tokenise(backbone.tokenizer, TARGET)
    left, new = phases.different_words(source, target)
    assert left.nonzero().flatten().tolist() == source.positions("blue car")
    assert new.nonzero().flatten().tolist() == target.positions("red bear")
    edit = phases.shared_words(source, target, STEPS, 4)
    maps = torch.rand(2, 1, 5, target.length, generator=torch.Generator().manual_seed(0))
    assert torch.equal(edit(maps[:1], maps[1:], 3), maps[1:])
    fused = edit(maps[:1], maps[1:], 4)[0, 0]
    kept, changed = target.positions("road"), target.positions("red bear")
    assert torch.equal(fused[:, kept], maps[0, 0][:, source.positions("road")])
    assert torch.equal(fused[:, changed], maps[1, 0][:, changed])


def test_keys_and_values_are_the_source_s():
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 6, 5, 8, generator=generator)  # three branches of two frames
    follower = Follower(Layers(8, 8), CrossEdit(torch.eye(4), torch.zeros(9, 4)), branches=3, source=1)
    control = phases.Phased(follower, (2, 4))
    for now, borrowed in ((1, False), (2, True), (3, True), (4, False)):
        follower.step = now
        attended = control("x.attn1", query, key, value, 2)
        lent = [torch.cat([x[2:4]] * 3) if borrowed else x for x in (key, value)]
        torch.testing.assert_close(attended, attend(query, *lent, 2))
    follower.step = 2
    torch.testing.assert_close(control("x.attn2", query, key, value, 2), attend(query, key, value, 2))


def test_joint_relevance_has_the_union_as_its_region():
    generator = torch.Generator().manual_seed(0)
    watches = []
    for scale in (1.0, 40.0):
        watch = Watch(Layers(8, 8), torch.tensor([1.0, 0.0]))
        watch.see(torch.rand(2, 1, 64, 2, generator=generator) ** 8 * scale)
        watches.append(watch)
    joint = region(phases.joint_relevance(watches), (8, 8), 0.5)
    each = [region(watch.relevance(), (8, 8), 0.5) for watch in watches]
    assert torch.equal(joint, each[0] | each[1]) and not joint.all() and joint.any()


def test_features_move_part_of_the_way():
    network = torch.nn.ModuleDict({"conv": torch.nn.Identity()})
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    source = torch.cat([x[2:4]] * 3)
    for amount, wanted in ((1.0, source), (0.0, x), (0.25, x + 0.25 * (source - x))):
        with difference.towards_source(network, ["conv"], branches=3, source=1, amount=amount):
            torch.testing.assert_close(network["conv"](x), wanted)
    assert difference.residual_layers(tiny.make().unet, (1,)) == [f"up_blocks.1.resnets.{i}.conv2" for i in (0, 1)]
