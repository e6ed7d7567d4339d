"""Video-P2P: frame attention, control, local blend and the method's own verbs, against the published code's numbers."""

import pytest
import torch
from safetensors.torch import load_file

from models.attention.frame_index import frame_index
from models.attention.installed import RoutedAttention
from models.context import Context
from models.controls import blend, refine, replace, reweight, words
from models.controls.cross import CrossEdit
from models.controls.record import Layers, Watch
from models.methods.video_p2p import VideoP2P
from models.params import guarded
from models.types import Fitted
from tests.models import recorded
from tests.models.recorded import close, equalizer, prompt


def load(case):
    return recorded.load("video_p2p", case)


def test_frame_attention():
    described, tensors = load("frame_attention")
    given = described["parameters"]
    attn = recorded.attention(tensors, given["heads"])
    processor = RoutedAttention(frame_index(given["frames"], ("first",)))
    close(processor(attn, tensors["h"]), tensors["out"], described["tolerance"])


@pytest.mark.parametrize("kind", ["replace", "refine_reweight"])
def test_control(kind):
    described, tensors = load(f"controller_{kind}")
    given, n = described["parameters"], described["parameters"]["num_steps"]
    source, target = prompt(described["source"]), prompt(described["target"])
    mapper, shared = (replace.mapper(source, target), None) if kind == "replace" else refine.mapper(source, target)
    factors = reweight.equalizer(target, equalizer(given["equalizer"]))
    alpha = words.cross_schedule(n, given["cross_replace_steps"], target, {})
    edit = CrossEdit(mapper, alpha, shared, factors)
    start, end = words.window(given["self_replace_steps"], n)
    _, _, cross_source, cross_target = tensors["cross_in"].chunk(4)
    _, _, temporal_source, temporal_target = tensors["temporal_in"].chunk(4)
    for step in range(n):
        close(edit(cross_source, cross_target, step), tensors["cross_out"][step], described["tolerance"])
        followed = temporal_source if start <= step < end else temporal_target
        close(followed, tensors["temporal_out"][step], 0)


def test_local_blend():
    described, tensors = load("local_blend")
    given = described["parameters"]
    layers = Layers(32, 32, blend_ratio=2)
    watches = [Watch(layers, columns) for columns in tensors["word_mask"]]
    for layer in range(5):
        for branch, watch in enumerate(watches):
            scale = tensors["head_scale"][layer][None, :, None, None]
            watch.see(tensors["spatial"][layer, branch][:, None] * scale)
    inside = blend.union([watch.relevance() for watch in watches], (32, 32), given["threshold"][0])
    close(inside.float(), tensors["mask"], 0)
    source, edit = tensors["x"].split(1)
    close(blend.keep_outside(source, edit, inside), tensors["out"][1:], described["tolerance"])
    close(source, tensors["out"][:1], 0)


@pytest.mark.parametrize("case", ["end_to_end_refine_reweight", "end_to_end_replace_fast"])
def test_end_to_end(case):
    described, tensors = load(case)
    given, backbone, clip = described["parameters"], recorded.backbone(described, tensors), recorded.clip(tensors["z0"])
    steps, frames = given["steps"], given["frames"]
    fitted = Fitted(load_file(recorded.GOLDEN / "tune_a_video/extra_weights.safetensors"))
    p = VideoP2P.Params(
        prompt=described["target"]["prompt"],
        source_prompt=described["source"]["prompt"],
        num_inference_steps=steps,
        guidance_scale=given["guidance"],
        legacy_timesteps=True,
        null_text_inner_steps=given["null_inner_steps"] or 0,
        cross_replace_until=given["cross_replace_steps"],
        self_replace_until=given["self_replace_steps"],
        reweight=equalizer(given["equalizer"]),
    )
    method = VideoP2P()
    with torch.no_grad():
        trajectory = method.invert(Context(backbone, "invert"), guarded(p, "invert"), clip, fitted)
        inverted = backbone.frame_evals
        backbone.seen.clear()
        latents = method.edit(Context(backbone, "edit"), guarded(p, "edit"), clip, fitted, trajectory)
    close(trajectory.latents[:, 0], tensors["inversion"], 1e-4)
    states = [*backbone.seen[1:], latents]
    for step, expected in zip((0, steps // 2), tensors["sampled"], strict=False):
        close(states[step][-2:], expected, described["tolerance"])
    close(states[-1][-1], tensors["sampled"][2, 1], described["tolerance"])
    branches = 3 if given["fast"] else 4
    with_source = int(given["cross_replace_steps"] * (steps + 1))
    assert backbone.frame_evals - inverted == (branches * with_source + 2 * (steps - with_source)) * frames
    if not given["fast"]:
        assert (trajectory.null_embeds[:, 0] - tensors["uncond_optimised"]).abs().mean() < 1e-4
        assert inverted == steps * frames * (1 + 1 + given["null_inner_steps"] + 1)
