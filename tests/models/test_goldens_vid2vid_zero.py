"""vid2vid-zero: its network in both modes and the method's own verbs, against the published code's numbers."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange, repeat

from models.attention.dense import dense
from models.attention.frame_index import frame_index
from models.attention.installed import RoutedAttention
from models.context import Context
from models.controls.attend import routed
from models.methods.vid2vid_zero import Vid2VidZero, policies
from models.params import guarded
from models.temporal import inflation
from tests.models import recorded
from tests.models.recorded import close

CASES = [pytest.param("end_to_end_replace", 0.8, marks=pytest.mark.slow), ("end_to_end_refine", 0.4)]


def load(case):
    return recorded.load("vid2vid_zero", case)


def test_dense_attention():
    described, tensors = load("dense_attention")
    given = described["parameters"]
    attn = recorded.attention(tensors, given["heads"])
    for policy, expected in ((dense(given["frames"]), "out_dense"), (frame_index(4, ()), "out_normal_infer")):
        close(RoutedAttention(policy)(attn, tensors["h"]), tensors[expected], described["tolerance"])


def test_network():
    described, tensors = load("unet_forward")
    frames = described["parameters"]["frames"]
    unet = UNet2DConditionModel.from_pretrained(recorded.GOLDEN / "tiny_sd/unet", use_safetensors=True).eval()
    network = inflation.inflate(unet, frames, temporal=False)
    clip = recorded.clip(tensors["z"])
    every = policies(SimpleNamespace(dense_attention=True, sparse_causal_attention=True), clip)
    alone = policies(SimpleNamespace(dense_attention=False, sparse_causal_attention=False), clip)
    for choose, expected in ((every, "eps"), (alone, "eps_normal_infer")):
        with torch.no_grad(), routed(network, choose):
            folded = rearrange(tensors["z"], "1 c f h w -> f c h w")
            text = repeat(tensors["text"], "1 n d -> f n d", f=frames)
            eps = network(folded, tensors["timestep"], encoder_hidden_states=text, return_dict=False)[0]
        close(rearrange(eps, "f c h w -> 1 c f h w"), tensors[expected], described["tolerance"])


@pytest.mark.parametrize(("case", "cross_replace_until"), CASES)
def test_end_to_end(case, cross_replace_until):
    described, tensors = load(case)
    given, backbone, clip = described["parameters"], recorded.backbone(described, tensors), recorded.clip(tensors["z0"])
    steps, frames = given["steps"], given["frames"]
    p = Vid2VidZero.Params(
        prompt=described["target"]["prompt"],
        source_prompt=described["source"]["prompt"],
        num_inference_steps=steps,
        guidance_scale=given["guidance"],
        null_text_inner_steps=given["null_inner_steps"],
        null_text_learning_rate=given["null_base_lr"],
        null_text_early_stop=given["early_stop_epsilon"],
        null_uncond_ratio=given["null_uncond_ratio"],
        cross_replace_until=cross_replace_until,
    )
    method = Vid2VidZero()
    with torch.no_grad():
        trajectory = method.invert(Context(backbone, "invert"), guarded(p, "invert"), clip, None)
        backbone.seen.clear()
        before = backbone.frame_evals
        latents = method.edit(Context(backbone, "edit"), guarded(p, "edit"), clip, None, trajectory)
    close(trajectory.latents[:, 0], tensors["inversion"], 1e-4)
    assert (trajectory.null_embeds[:, 0] - tensors["uncond_optimised"]).abs().mean() < 1e-4
    states = [*backbone.seen[1:], latents]
    for step, expected in zip((0, steps // 2 - 1, steps // 2, steps - 1), tensors["sampled"], strict=True):
        state = states[step]
        if len(state) == 4:  # the source is left out when nothing of it is used
            close(state[-2:], expected, described["tolerance"])
        else:
            close(state[-1], expected[1], described["tolerance"])
    with_source = int(cross_replace_until * (steps + 1))
    assert backbone.frame_evals - before == (4 * with_source + 2 * (steps - with_source)) * frames
