"""Ground-A-Video: gated, modulated and all-frame attention, grounding tokens, masks and smoothing; recorded."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock, GatedSelfAttentionDense
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import GLIGENTextBoundingboxProjection

from models.attention.across_frames import across_frames
from models.attention.dense import dense
from models.attention.installed import RoutedAttention
from models.backbones import tiny
from models.conditions import grounding
from models.context import Context
from models.errors import InvalidParams
from models.inversion import null_text
from models.methods import ground_a_video
from models.methods.ground_a_video import GroundAVideo
from models.params import guarded
from models.propagation import still
from models.types import Clip, Trajectory
from tests.models import recorded
from tests.models.recorded import close


def load(case):
    described, tensors = recorded.load("ground_a_video", case)
    weights = {name.removeprefix("in.w."): value for name, value in tensors.items() if name.startswith("in.w.")}
    return described["parameters"], tensors, weights


def filled(module, weights):
    module.load_state_dict(weights)
    return module.eval()


@torch.no_grad()
def test_all_frame_attention():
    given, tensors, weights = load("all_frame_attention_4f")
    attn = filled(Attention(given["dim"], heads=given["heads"], dim_head=given["dim"] // given["heads"]), weights)
    attn.set_processor(RoutedAttention(dense(given["frames"])))
    close(attn(tensors["in.x"]), tensors["out.y"], 2e-6)


@torch.no_grad()
def test_gated_attention():
    given, tensors, weights = load("gated_attention_4f")
    width, heads = given["dim"], given["heads"]
    fuser = filled(GatedSelfAttentionDense(width, given["object_dim"], heads, width // heads), weights)
    fuser.attn.set_processor(across_frames(given["frames"], modulated=False)("block.fuser.attn"))
    close(fuser(tensors["in.x"], tensors["in.objs"]), tensors["out.y"], 5e-6)
    fuser.enabled = False
    close(fuser(tensors["in.x"], tensors["in.objs"]), tensors["out.y_scale0"], 5e-6)


@torch.no_grad()
def test_modulated_cross_attention():
    given, tensors, weights = load("modulated_cross_attention_4f")
    width, heads = given["dim"], given["heads"]
    attn = filled(Attention(width, given["text_dim"], heads=heads, dim_head=width // heads), weights)
    plain = attn.processor
    calls = {"call1_cond": "cond", "call2_uncond": "uncond", "call3_cond": "cond"}
    calls |= {"call4_uncond_equal_texts": "uncond_equal"}
    for call, text in calls.items():
        joint = across_frames(given["frames"], modulated="uncond" in call)("block.attn2")
        attn.set_processor(joint or plain)
        close(attn(tensors["in.x"], tensors[f"in.text_{text}"]), tensors[f"out.{call}"], 2e-6)


@torch.no_grad()
def test_block():
    given, tensors, weights = load("block_4f")
    width, heads = given["dim"], given["heads"]
    block = BasicTransformerBlock(
        width, heads, width // heads, cross_attention_dim=given["text_dim"], attention_type="gated"
    )
    filled(block, weights)
    plain = block.attn2.processor
    for call, branch, objects in (("call1_cond", "cond", "objs"), ("call2_uncond", "uncond", "objs_null")):
        choose = across_frames(given["frames"], modulated=branch == "uncond")
        for name, layer in (("attn1", block.attn1), ("fuser.attn", block.fuser.attn), ("attn2", block.attn2)):
            layer.set_processor(choose(f"block.{name}") or plain)
        kwargs = {"gligen": {"objs": tensors[f"in.{objects}"]}}
        text = tensors[f"in.text_{branch}"]
        out = block(tensors["in.x"], encoder_hidden_states=text, cross_attention_kwargs=kwargs)
        close(out, tensors[f"out.{call}"], 1e-5)


@torch.no_grad()
def test_position_net():
    given, tensors, _ = load("position_net_3f")
    net = GLIGENTextBoundingboxProjection(given["phrase_dim"], given["out_dim"], fourier_freqs=given["fourier_freqs"])
    for layer in net.linears[::2]:
        o, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in layer.weight.shape), indexing="ij")
        layer.weight.copy_(1.5 / layer.in_features**0.5 * torch.sin(1 + 0.7 * o + 1.3 * i + 0.01 * o * i))
        layer.bias.copy_(0.05 * torch.cos(o[:, 0]))
    net.null_positive_feature.copy_(tensors["in.null_positive_feature"])
    net.null_position_feature.copy_(tensors["in.null_position_feature"])
    where = grounding.Objects(tensors["in.boxes"], tensors["in.phrase_embedding"], tensors["in.masks"])
    seen = []
    net.linears.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    close(net(**vars(where)), tensors["out.objs"], 2e-5)
    close(seen[0], tensors["out.mlp_input"], 2e-5)


def test_inpaint_mask():
    given, tensors, _ = load("inpaint_mask_4f")
    mask = grounding.outside(tensors["in.boxes"], (given["size"], given["size"]))
    assert torch.equal(mask, tensors["out.mask"])


def test_flow_smoothing():
    given, tensors, _ = load("flow_smoothing_5f")
    mask = still.moving(tensors["in.flow"], tuple(given["latent"]), given["threshold"])
    assert torch.equal(mask.float(), tensors["out.moving_mask"])
    close(still.carried(tensors["in.z_T"], mask), tensors["out.smoothed"], 1e-6)
    nothing = still.moving(torch.zeros(2, 2, 8, 8), (4, 4), 0.2)
    assert not nothing.any()


def test_boxes_of_every_frame():
    one, two = ((0.0, 0.0, 0.5, 0.5),), ((0.0, 0.0, 0.5, 0.5), (0.4, 0.2, 0.9, 0.7))
    boxes = grounding.per_frame((one, two), 3)
    assert torch.allclose(boxes[:, 0], torch.tensor(one).expand(3, 4))
    assert torch.allclose(boxes[:, 1], torch.tensor([two[0], (0.2, 0.1, 0.7, 0.6), two[1]]))
    every = tuple((0.0, 0.0, 0.1 * i, 0.5) for i in (1, 3, 2))
    assert torch.allclose(grounding.per_frame((every,), 3)[:, 0], torch.tensor(every))
    with pytest.raises(InvalidParams, match="3 boxes"):
        grounding.per_frame((every,), 2)


@pytest.mark.parametrize("wrong", [[0.5, 0.1, 0.4, 0.9], [0.1, 0.1, 0.1, 0.9], [0.1, 0.1, 1.2, 0.9]])
def test_wrong_boxes_and_counts_are_refused(wrong):
    with pytest.raises(ValueError):
        GroundAVideo.Params(prompt="a", boxes=[[wrong]], phrases=["a bear"])
    with pytest.raises(ValueError, match="phrases has 2 entries for 1 objects"):
        GroundAVideo.Params(prompt="a", boxes=[[[0.1, 0.1, 0.9, 0.9]]], phrases=["a bear", "a car"])


def grounded_backbone(channels=4):
    """The tiny grounded backbone; with nine channels, one that takes the masked source."""
    backbone = tiny.make_grounded()
    if channels != 4:
        unet = UNet2DConditionModel.from_config({**backbone.unet.config, "in_channels": channels})
        weights = backbone.unet.state_dict() | {"conv_in.weight": unet.conv_in.weight}
        unet.load_state_dict(weights)
        return replace(backbone, unet=unet)
    return backbone


def clip_of(backbone, count=3):
    frames = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    frames = torch.cat([frames[:1], frames[:1].roll(4, dims=-1), frames[2:]])
    return Clip(frames, backbone.encode_frames(frames), 8.0, 64, 64)


def run(backbone, clip, **changes):
    given = {"prompt": "a red bear", "boxes": [[[0.0, 0.0, 0.5, 0.5]]], "phrases": ["a red bear"]}
    given |= {"num_inversion_steps": 3, "num_inference_steps": 3}
    p, method = GroundAVideo.Params(**{**given, **changes}), GroundAVideo()
    ctx = Context(backbone, "edit")
    with torch.no_grad():
        trajectory = method.invert(Context(backbone, "invert"), guarded(p, "invert"), clip, None)
        return method.edit(ctx, p, clip, None, trajectory), trajectory, ctx


@pytest.mark.parametrize("channels", [4, 9])
def test_grounded_checkpoint(channels):
    """Phrases, boxes and the share of steps with gated layers all reach the edit; the network is given back."""
    backbone = grounded_backbone(channels)
    clip = clip_of(tiny.make())
    processors = {name: type(p) for name, p in backbone.unet.attn_processors.items()}
    edits = [
        run(backbone, clip, **changes)
        for changes in (
            {},
            {"phrases": ["a yellow robot"]},
            {"boxes": [[[0.2, 0.2, 0.9, 0.9]]]},
            {"grounding_until": 0.4},
            {"source_phrases": ["a blue car"]},
        )
    ]
    for index, (latents, _, ctx) in enumerate(edits):
        assert not ctx.warnings
        assert all(not torch.equal(latents, other) for other, *_ in edits[index + 1 :])
    assert {name: type(p) for name, p in backbone.unet.attn_processors.items()} == processors


def test_without_gated_layers_boxes_confine_the_edit():
    backbone = tiny.make()
    clip = clip_of(backbone)
    before = backbone.frame_evals
    latents, _, ctx = run(backbone, clip)
    assert backbone.frame_evals - before == (3 + 2 * 3) * 3
    assert [warned.code for warned in ctx.warnings] == ["grounding_unavailable"]
    change = (latents - clip.latents).abs().mean(dim=(0, 1, 2))
    assert change[:4, :4].mean() > 1.5 * change[4:, 4:].mean()
    free, *_ = run(backbone, clip, inpaint=False)
    assert not torch.equal(free, latents)


def test_null_texts_of_frames_are_read_by_all():
    """Every frame has its own null text; changing one frame's changes the unconditional branch of the others."""
    backbone = tiny.make()
    clip = clip_of(backbone)
    latents, trajectory, _ = run(backbone, clip, null_text_inner_steps=1)
    assert trajectory.null_embeds.shape == (3, 3, tiny.TOKENS, 16)
    assert not torch.equal(trajectory.null_embeds[:, 0], trajectory.null_embeds[:, 1])
    assert not torch.equal(latents, run(backbone, clip)[0])
    network = grounding.Grounded(backbone.unet, None, None)
    null = trajectory.null_embeds[0]
    other = torch.cat([null[:2], null[2:] + 1])
    with torch.no_grad():
        outs = [ground_a_video.predict(backbone, network, clip.latents, 501, text) for text in (null, other)]
    assert (outs[0] - outs[1])[:, :, 0].abs().max() > 1e-4


def test_null_texts_belong_to_their_timesteps():
    embeds = torch.arange(4.0).view(4, 1, 1, 1)
    trajectory = Trajectory(torch.zeros(5, 1, 4, 1, 2, 2), torch.tensor([1, 251, 501, 751]), embeds)
    chosen = [null_text.optimised(trajectory, t, i, legacy=False).item() for i, t in enumerate((901, 451, 1))]
    assert chosen == [0, 1, 3]
    legacy = [null_text.optimised(trajectory, 1, i, legacy=True) for i in (0, 3, 4)]
    assert [None if item is None else item.item() for item in legacy] == [0, 3, None]
