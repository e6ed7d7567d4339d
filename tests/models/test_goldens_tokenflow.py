"""TokenFlow and plug-and-play: joint key frames, correspondence, propagation, injection and the whole loop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from models.attention.installed import installed, is_self_attention
from models.backbones.backbone import Backbone
from models.features import plug_and_play, taps
from models.guidance import cfg
from models.inversion import ddim as inversion
from models.methods import tokenflow
from models.propagation import nearest_neighbour as nn_field
from models.schedules import ddim

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = DDIMScheduler.load_config(GOLDEN / "tiny_sd/scheduler")
BLOCKS = ["propagation_block_down0", "propagation_block_up2"]


@pytest.fixture(scope="module")
def schedule() -> ddim.Schedule:
    return ddim.Schedule.from_config(CONFIG)


@pytest.fixture(scope="module")
def unet() -> Any:
    return UNet2DConditionModel.from_pretrained(GOLDEN / "tiny_sd/unet", use_safetensors=True).eval()


def load(case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_file(GOLDEN / f"{case}.safetensors"), json.loads((GOLDEN / f"{case}.json").read_text())


def difference(actual: Tensor, expected: Tensor) -> float:
    return (actual - expected).abs().max().item()


@torch.no_grad()
def test_extended_attention(unet: Any) -> None:
    case, about = load("tokenflow/extended_attention_3kf")
    injected = plug_and_play.query_key_layers(unet)
    call = nn_field.Pass(3, 3, nn_field.two_sided(0, [0, 1, 2], 1))
    with installed(unet, nn_field.propagated(call)):
        for short, layer in about["parameters"]["layers"].items():
            attn, tokens = unet.get_submodule(layer), case[f"in.x_{short}"]
            assert difference(attn(tokens), case[f"out.{short}_later_step"]) <= 2e-6
            with taps.shared(unet, injected, 3):
                assert difference(attn(tokens), case[f"out.{short}_inject_step"]) <= 2e-6


def test_injected_layers(unet: Any) -> None:
    _, about = load("plug_and_play/unet_injection_one_prompt")
    blocks = about["parameters"]["qk_blocks"].values()
    expected = {f"{b}.transformer_blocks.0.attn1.{projection}" for b in blocks for projection in ("to_q", "to_k")}
    assert set(plug_and_play.query_key_layers(unet)) == expected
    assert plug_and_play.residual_layers(unet) == ["up_blocks.1.resnets.1.conv2"]


@torch.no_grad()
def test_residual_injection(unet: Any) -> None:
    case, _ = load("tokenflow/conv_injection")
    resnet = unet.up_blocks[1].resnets[1]
    assert difference(resnet(case["in.x"], case["in.temb"]), case["out.later_step"]) <= 2e-6
    with taps.shared(unet, plug_and_play.residual_layers(unet), 3):
        assert difference(resnet(case["in.x"], case["in.temb"]), case["out.inject_step"]) <= 2e-6


@pytest.mark.parametrize("name", ["nn_field_first", "nn_field_middle"])
def test_correspondence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, about = load(f"tokenflow/{name}")
    tokens, keys = case["in.source_tokens"], case["in.pivot_tokens"]
    names = [n for n in ("nn_current", "nn_previous") if f"out.{n}" in case]
    for n, key in zip(names, about["parameters"]["neighbour_key_frames"], strict=True):
        expected = case[f"out.{n}"].long()
        of_key = keys[key].expand(len(tokens), *keys.shape[1:])
        assert torch.equal(nn_field.nearest(tokens, of_key), expected)
        monkeypatch.setattr(nn_field, "SIMILARITIES", 1)  # one token at a time
        assert torch.equal(nn_field.nearest(tokens, of_key), expected)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("together", [True, False])
@torch.no_grad()
def test_propagation(unet: Any, name: str, together: bool) -> None:
    case, about = load(f"tokenflow/{name}")
    keys, size = about["parameters"]["key_frames"], about["parameters"]["chunk_frames"]
    block = unet.get_submodule(about["parameters"]["layer"])
    chunks = about["parameters"]["chunks"]
    near = nn_field.one_sided(len(chunks) * size, range(keys), size)
    call = nn_field.Pass(3, keys, near)

    def run(tokens: list[Tensor]) -> Tensor:
        clip = torch.cat([rearrange(t, "(b f) n d -> b f n d", b=3) for t in tokens], dim=1)
        text = case["in.text"].repeat_interleave(clip.shape[1], dim=0)
        return rearrange(block(clip.flatten(0, 1), encoder_hidden_states=text), "(b f) n d -> b f n d", b=3)

    hidden = [case[f"in.chunk{i}_hidden"] for i in chunks]
    with installed(unet, nn_field.propagated(call)):
        if together:
            output = run([case["in.pivot_hidden"], *hidden])
            pivots, parts = output[:, :keys], output[:, keys:].split(size, dim=1)
        else:
            call.neighbours = near.part(slice(0, 0))
            pivots, parts = run([case["in.pivot_hidden"]]), ()
            for i in chunks:
                call.keys, call.neighbours = 0, near.part(slice(i * size, i * size + size))
                parts = (*parts, run([hidden[i]]))
        processor = block.attn1.processor
    assert difference(pivots.flatten(0, 1), case["out.pivot_out"]) <= 5e-6
    assert difference(processor.key_tokens, case["out.pivot_normed_source"]) <= 5e-6
    assert difference(processor.outputs.flatten(0, 1), case["out.key_frame_attn_output"]) <= 5e-6
    for i in chunks:
        assert difference(parts[i].flatten(0, 1), case[f"out.chunk{i}_out"]) <= 5e-6


def test_one_sided_weights() -> None:
    _, about = load("tokenflow/propagation_block_up2")
    near = nn_field.one_sided(12, [1, 6, 9], 4)
    assert near.weight[:4].tolist() == [1, 1, 1, 1]
    for chunk, expected in about["parameters"]["weight_of_current_key_frame"].items():
        part = near.part(slice(int(chunk) * 4, int(chunk) * 4 + 4))
        assert part.weight.tolist() == pytest.approx(expected, abs=1e-6)
        assert part.first.unique().tolist() == [int(chunk)]
        assert part.second.unique().tolist() == [int(chunk) - 1]


def test_two_sided_weights() -> None:
    near = nn_field.two_sided(8, [1, 5], 4)
    assert near.first.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert near.second.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert near.weight.tolist() == [1, 1, 0.75, 0.5, 0.25, 1, 1, 1]


@pytest.mark.parametrize("frames_per_pass", [3, 8])
@torch.no_grad()
def test_whole_loop(unet: Any, frames_per_pass: int) -> None:
    case, about = load("tokenflow/edit_loop_8f_6s")
    about = about["parameters"]
    double = UNet2DConditionModel.from_pretrained(GOLDEN / "tiny_sd/unet", use_safetensors=True).double()
    backbone = Backbone(
        tokenizer=None, text_encoder=torch.nn.Identity(), vae=torch.nn.Identity(), unet=double,
        scheduler_config=CONFIG, checkpoint="golden", digest="", native_size=128,
        device=torch.device("cpu"), dtype=torch.float64,
    )  # fmt: skip
    schedule = ddim.Schedule.from_config(CONFIG)
    z0 = rearrange(case["in.z0"].double(), "f c h w -> 1 c f h w")
    texts = torch.cat([case[f"in.text_{name}"] for name in ("inversion", "negative", "target")]).double()

    keep = inversion.grid(schedule, about["n_inversion_steps"], about["n_timesteps"])
    walked = inversion.walk(
        lambda z, t: backbone.predict(z, t, texts[:1]), schedule, z0, about["n_inversion_steps"], keep=keep
    )
    assert walked.timesteps.tolist() == about["saved_source_timesteps"]
    for t in about["saved_source_timesteps"]:
        kept = inversion.latents_at(schedule, walked, t)
        assert difference(rearrange(kept, "1 c f h w -> f c h w"), case[f"out.source_latent_t{t}"]) <= 1e-5

    timesteps = schedule.timesteps(about["n_timesteps"])
    assert timesteps == about["timesteps"]
    latents = inversion.start(schedule, walked, timesteps[0])
    assert difference(rearrange(latents, "1 c f h w -> f c h w"), case["out.x_init"]) <= 1e-5
    p = tokenflow.TokenFlow.Params(prompt="", attention_until=about["pnp_attn_t"], features_until=about["pnp_f_t"])
    batch = about["chunk_frames_batch_size"]
    for i, t in enumerate(timesteps):
        keys = case["out.key_frame_index"][i].tolist()
        source = inversion.latents_at(schedule, walked, t)
        near = nn_field.one_sided(8, keys, batch)
        with taps.shared(double, tokenflow.source_layers(p, double, i, len(timesteps)), 3):
            output = tokenflow.predict_jointly(
                backbone, source, latents, t, texts, keys, near, about["guidance_scale"], frames_per_pass
            )
        latents = ddim.step(schedule, output, latents, level=t, to=t - schedule.stride(len(timesteps)))
        assert difference(rearrange(latents, "1 c f h w -> f c h w"), case[f"out.x_after_step{i}"]) <= 1e-5


@torch.no_grad()
def test_plug_and_play_injection(unet: Any) -> None:
    case, about = load("plug_and_play/unet_injection_one_prompt")
    t = about["parameters"]["timestep"]
    query_key, residual = plug_and_play.query_key_layers(unet), plug_and_play.residual_layers(unet)
    with taps.recorded(unet, query_key + residual) as features:
        source = unet(case["in.z_source"].repeat(2, 1, 1, 1), t, case["in.text_source"]).sample
    assert difference(source, case["out.source_eps"]) <= 1e-5
    assert difference(features[residual[0]], case["out.captured_conv"]) <= 1e-5
    for name, layers in (("plain", []), ("qk", query_key), ("conv", residual), ("both", query_key + residual)):
        with taps.injected(unet, {layer: features[layer] for layer in layers}):
            target = unet(case["in.z_target"].repeat(2, 1, 1, 1), t, case["in.text_target"]).sample
        assert difference(target, case[f"out.target_{name}"]) <= 1e-5


@torch.no_grad()
def test_plug_and_play_sampling(unet: Any, schedule: ddim.Schedule) -> None:
    case, about = load("plug_and_play/sampling_6_steps")
    about = about["parameters"]
    layers = {
        plug_and_play.query_key_layers: about["qk_injection_last_step_index"],
        plug_and_play.residual_layers: about["feature_injection_last_step_index"],
    }
    empty, negative, target = (case[f"in.text_{name}"] for name in ("empty", "negative", "target"))
    source = edited = case["in.x_T"]
    for i, t in enumerate(schedule.timesteps(about["steps"])):
        wanted = [name for choose, last in layers.items() if i <= last for name in choose(unet)]

        def predict(latents: Tensor, first: Tensor, second: Tensor, t: int = t) -> tuple[Tensor, ...]:
            return unet(latents.repeat(2, 1, 1, 1), t, torch.cat([first, second])).sample.chunk(2)

        def stepped(output: Tensor, latents: Tensor, t: int = t) -> Tensor:
            return ddim.step(schedule, output, latents, level=t, to=t - schedule.stride(about["steps"]))

        with taps.recorded(unet, wanted) as features:
            output = cfg.combine(*predict(source, empty, case["in.text_source"]), about["source_scale"])
        source = stepped(output, source)
        with taps.injected(unet, features):
            away, _ = predict(edited, negative, empty)
            nothing, towards = predict(edited, empty, target)
        share = about["weight_of_empty_prompt_per_step"][i]
        base = share * nothing + (1 - share) * away
        edited = stepped(cfg.combine(base, towards, about["target_scale"]), edited)
        assert difference(source, case["out.source_latents"][i]) <= 1e-3
        assert difference(edited, case["out.target_latents"][i, 0]) <= 1e-3


@torch.no_grad()
def test_taps_are_taken_out(unet: Any) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in unet.modules())

    names = plug_and_play.query_key_layers(unet)
    with pytest.raises(RuntimeError, match="mid-edit"), taps.shared(unet, names, 3):
        assert hooks() == len(names)
        raise RuntimeError("mid-edit")
    assert hooks() == 0
    with pytest.raises(KeyError), taps.shared(unet, [*names, "nowhere"], 3):
        pass
    assert hooks() == 0
    assert len([name for name in unet.attn_processors if is_self_attention(name.removesuffix(".processor"))]) == 16
