"""FateZero: fusion rules on given maps, and the method's own verbs, against numbers of the published code."""

from types import SimpleNamespace

import pytest
import torch
from einops import rearrange

from models.attention.frame_index import frame_index
from models.attention.installed import RoutedAttention
from models.context import Context
from models.controls import blend, refine, replace, reweight, words
from models.controls.attend import apply, controlled, maps_of
from models.controls.cross import CrossEdit
from models.controls.record import Layers, Recorder, Watch
from models.methods.fatezero import CONTROLLED, FateZero, policies
from models.params import guarded
from models.temporal import inflation
from models.types import Fitted
from tests.models import recorded
from tests.models.recorded import close, equalizer, prompt, windows

BLEND_LAYERS = ("down_cross.2", "down_cross.3", "up_cross.0", "up_cross.1", "up_cross.2")


def load(case):
    return recorded.load("fatezero", case)


@pytest.mark.parametrize("kind", ["refine_mask"])
def test_fusion(kind):
    described, tensors = load(f"fusion_{kind}")
    _, stored = load("fusion_store")
    given, n, frames = described["parameters"], described["parameters"]["num_steps"], described["parameters"]["frames"]
    source, target = prompt(described["source"]), prompt(described["target"])
    until, single = windows(given["cross_replace_steps"])
    alpha = words.cross_schedule(n, until, target, single)
    mapper, shared = refine.mapper(source, target)
    if kind.startswith("replace"):
        mapper, shared = replace.mapper(source, target), None
    weights = equalizer(given["equalizer"])
    edit = CrossEdit(mapper, alpha, shared, reweight.equalizer(target, weights) if weights else None)
    start, end = words.window(given["self_replace_steps"], n)

    def kept(layer, step):
        place, index = layer.split(".")
        return stored[f"store.{place}"][n - 1 - step, int(index)]

    for layer in ("down_cross.1", "up_cross.2", "down_self.0", "up_self.0"):
        own = tensors[f"in.{layer}"][frames:]
        for step in range(n):
            if "cross" in layer:
                actual = edit(kept(layer, step), own, step)
            elif not start <= step < end:
                actual = own
            else:
                actual = kept(layer, step)
                if given["blend_words"]:
                    watch = Watch(
                        Layers(16, 16, blend_ratio=4), words.columns(source, ", ".join(given["blend_words"][0]))
                    )
                    for seen in BLEND_LAYERS:
                        watch.see(kept(seen, step))
                    side = int(own.shape[2] ** 0.5)
                    inside = blend.region(watch.relevance(), (side, side), given["blend_threshold"][0])
                    close(inside[:, None].float(), tensors[f"masks_{layer.split('.')[0]}"][step - start], 0)
                    actual = torch.where(rearrange(inside, "f h w -> f 1 (h w) 1"), own, actual)
            close(actual, tensors[f"out.{layer}"][step], described["tolerance"])


def test_latent_blend():
    described, tensors = load("latent_blend")
    given, n = described["parameters"], described["parameters"]["num_steps"]
    layers = Layers(8, 8, blend_ratio=2)
    target = Watch(layers, tensors["word_mask"][1])
    trajectory = torch.cat([torch.zeros(1, 4, 2, 8, 8), tensors["store_latents"]])
    for i in range(n):
        source = Watch(layers, tensors["word_mask"][0])
        for layer in range(5):
            source.see(tensors["store_cross"][n - 1 - i, layer])
            target.see(tensors["target_maps"][layer])
        x = tensors["x"][i]
        if given["blend_active_at_call"][i]:
            threshold = given["threshold"][0]
            alone = blend.region(source.relevance(), (8, 8), threshold)
            close(alone[:, None].float(), tensors["mask_source"][i], 0)
            inside = blend.union((source.relevance(), target.relevance()), (8, 8), threshold)
            close(inside.float(), tensors["mask_union"][i], 0)
            x = blend.keep_outside(trajectory[n - i], x, inside)
        close(x, tensors["out"][i], described["tolerance"])


@pytest.mark.parametrize("index", range(5))
def test_frame_indices(index):
    described, tensors = load("sparse_causal_index_lists")
    given = described["parameters"]
    attn = recorded.attention(tensors, given["heads"])
    processor = RoutedAttention(frame_index(given["frames"], given["index_lists"][f"out{index}"]))
    close(processor(attn, tensors["h"]), tensors[f"out{index}"], described["tolerance"])


def test_rows_may_be_exchanged_after_they_attend():
    """Blending maps row by row, as published, is blending what rows attend to, as the method does."""
    generator = torch.Generator().manual_seed(0)
    own, source = (torch.rand(2, 3, 16, 8, generator=generator) for _ in range(2))
    value, inside = torch.rand(2, 8, 12, generator=generator), torch.rand(2, 16, generator=generator) > 0.5
    mixed = torch.where(inside[:, None, :, None], own, source)
    exchanged = torch.where(inside[:, :, None], apply(own, value), apply(source, value))
    close(apply(mixed, value), exchanged, 1e-6)


@pytest.fixture(scope="module")
def run():
    """The method's own verbs on a recorded case: what was recorded, the trajectory, latents after each step, evals."""
    described, tensors = load("end_to_end_refine")
    given, clip = described["parameters"], recorded.clip(tensors["z0"])
    backbone = recorded.backbone(described, tensors)
    until, single = windows(given["cross_replace_steps"])
    p = FateZero.Params(
        prompt=described["target"]["prompt"],
        source_prompt=described["source"]["prompt"],
        num_inference_steps=given["steps"],
        guidance_scale=given["guidance"],
        control=given["kind"],
        cross_replace_until=until,
        cross_replace_words=single,
        self_replace_until=given["self_replace_steps"],
        least_sc_channel=given["least_sc_channel"],
    )
    method, fitted = FateZero(), Fitted({})
    with torch.no_grad():
        trajectory = method.invert(Context(backbone, "invert"), guarded(p, "invert"), clip, fitted)
        inverted = backbone.frame_evals
        backbone.seen.clear()
        latents = method.edit(Context(backbone, "edit"), guarded(p, "edit"), clip, fitted, trajectory)
    states = [z[1] for z in backbone.seen if len(z) == 2] + [latents[0]]  # one at a time is the source
    evals = (inverted, backbone.frame_evals - inverted)
    return SimpleNamespace(p=p, clip=clip, backbone=backbone, trajectory=trajectory, states=states[1:], evals=evals)


def test_end_to_end(run):
    described, tensors = load("end_to_end_refine")
    close(run.trajectory.latents[:, 0], tensors["inversion"], 1e-4)
    close(torch.stack(run.states), tensors["edited"], described["tolerance"])
    steps, frames = described["parameters"]["steps"], described["parameters"]["frames"]
    assert run.evals == (steps * frames, 3 * steps * frames)  # the last word's window ends with the last step


def test_maps_are_had_again_from_the_latents(run):
    """What the published code stores at every inversion step is computed again from the trajectory."""
    _, tensors = load("end_to_end_refine")
    network = inflation.inflate(run.backbone.unet, run.clip.latents.shape[2], temporal=False)
    text, timesteps = run.backbone.encode_text([run.p.source_prompt]), run.trajectory.timesteps.tolist()

    def maps(i):
        recorder = Recorder(Layers(16, 16))
        with torch.no_grad(), controlled(network, recorder, CONTROLLED, policies(network, run.p, run.clip)):
            run.backbone.predict(run.trajectory.latents[i], timesteps[i], text, unet=network)
        return lambda place, kind: maps_of(*recorder.kept[f"{place}.transformer_blocks.0.{kind}"], 8)

    last = maps(len(timesteps) - 1)
    close(maps(0)("mid_block.attentions.0", "attn2"), tensors["store_first.mid_cross.0"], 1e-5)
    close(last("mid_block.attentions.0", "attn1"), tensors["store_last.mid_self.0"], 1e-5)
    close(last("up_blocks.1.attentions.0", "attn1"), tensors["store_last.up_self.0"], 1e-5)
    for i, expected in enumerate(tensors["store_mean_over_all.up_cross.8"]):
        close(maps(i)("up_blocks.3.attentions.2", "attn2").mean(dim=(0, 1))[::16], expected, 1e-5)
