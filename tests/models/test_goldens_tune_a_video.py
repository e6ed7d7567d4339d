"""Tune-A-Video: sparse-causal attention, the inflated network, its tuning, inversion and sampling; recorded numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from models.attention.installed import RoutedAttention, installed, routed
from models.attention.sparse_causal import sparse_causal
from models.guidance import cfg
from models.inversion import ddim as inversion
from models.schedules import ddim
from models.temporal import inflation
from models.tuning import one_shot

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = GOLDEN / "tune_a_video"
TRAINABLE = ("attn1.to_q", "attn2.to_q", "attn_temp")


@pytest.fixture(scope="module")
def schedule() -> ddim.Schedule:
    return ddim.Schedule.from_config(DDIMScheduler.load_config(GOLDEN / "tiny_sd/scheduler"))


@pytest.fixture(scope="module")
def unet() -> Any:
    unet = UNet2DConditionModel.from_pretrained(GOLDEN / "tiny_sd/unet", use_safetensors=True)
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def extra() -> dict[str, Tensor]:
    return load_file(CASES / "extra_weights.safetensors")


def inflated(unet: Any, frames: int, weights: dict[str, Tensor]) -> Any:
    network = inflation.inflate(unet, frames, attention=RoutedAttention(sparse_causal(frames)))
    inflation.own(network, weights)
    return network


def run(network: Any, latents: Tensor, t: int, text: Tensor) -> Tensor:
    batch, _, frames = latents.shape[:3]
    folded = rearrange(latents, "b c f h w -> (b f) c h w")
    output = network(folded, t, text.repeat_interleave(frames, dim=0)).sample
    return rearrange(output, "(b f) c h w -> b c f h w", b=batch)


def difference(actual: Tensor, expected: Tensor) -> float:
    return (actual - expected).abs().max().item()


@torch.no_grad()
def test_sparse_causal_attention() -> None:
    case = load_file(CASES / "sparse_causal_attention.safetensors")
    attn = Attention(24, heads=4, dim_head=6, processor=RoutedAttention(sparse_causal(4)))
    attn.load_state_dict({name.removeprefix("w."): w for name, w in case.items() if name.startswith("w.")})
    assert difference(attn(case["h"]), case["out"]) <= 2e-6


@torch.no_grad()
def test_transformer_block() -> None:
    case = load_file(CASES / "transformer_block.safetensors")
    weights = {name.removeprefix("w."): w for name, w in case.items() if name.startswith("w.")}
    block = BasicTransformerBlock(24, 4, 6, cross_attention_dim=32)
    text = case["text"].repeat_interleave(5, dim=0)
    block.attn1.set_processor(RoutedAttention(sparse_causal(5)))
    block.load_state_dict({name: w for name, w in weights.items() if "_temp" not in name})
    assert difference(block(case["h"], encoder_hidden_states=text), case["before_temporal"]) <= 5e-6
    inflation.add_temporal_attention(block, 5, None)
    block.load_state_dict(weights)
    assert difference(block(case["h"], encoder_hidden_states=text), case["out"]) <= 5e-6


@torch.no_grad()
def test_inflated_unet(unet: Any, extra: dict[str, Tensor]) -> None:
    case = load_file(CASES / "inflated_unet.safetensors")
    bias = {n.removeprefix("official_init_bias."): w for n, w in case.items() if n.startswith("official_init_bias.")}
    for weights, expected in ((extra, "eps"), (bias, "eps_official_init"), ({}, "eps_identity_init")):
        network = inflated(unet, 5, weights)
        assert difference(run(network, case["z"], int(case["timestep"]), case["text"]), case[expected]) <= 2e-5


@torch.no_grad()
def test_inflated_shares_and_spares_the_image_network(unet: Any, extra: dict[str, Tensor]) -> None:
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    processors = dict(unet.attn_processors)
    network = inflated(unet, 5, extra)
    shared = {id(p) for p in unet.parameters()} & {id(p) for p in network.parameters()}
    assert len(shared) == len(list(unet.parameters()))
    assert set(inflation.added(network, unet)) == set(extra)
    assert dict(unet.attn_processors) == processors
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())


@torch.no_grad()
def test_norm_switch(unet: Any) -> None:
    z = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1))
    per_frame = run(inflation.inflate(unet, 3, norm_over_frames=False, temporal=False), z, 401, text)
    assert difference(per_frame, run(unet, z, 401, text)) <= 1e-5
    over_frames = run(inflation.inflate(unet, 3, temporal=False), z, 401, text)
    assert difference(over_frames, per_frame) > 1e-2


def test_new_layers_come_from_the_generator(unet: Any) -> None:
    state = torch.get_rng_state()
    one, same, other = (
        inflation.added(inflation.inflate(unet, 2, generator=torch.Generator().manual_seed(seed)), unet)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    legacy = inflation.added(inflation.inflate(unet, 2, legacy_bias=True, generator=torch.Generator()), unet)
    bias = [legacy[name] for name in legacy if name.endswith("attn_temp.to_out.0.bias")]
    assert len(bias) == 16
    assert all(0 < b.abs().max() <= len(b) ** -0.5 for b in bias)


def test_trainable_parameters(unet: Any) -> None:
    expected = json.loads((CASES / "trainable_parameters.json").read_text())
    network = inflation.inflate(unet, 2)
    names = one_shot.trainable_names(network, TRAINABLE)
    assert sorted(names) == sorted(expected["names"])
    assert sum(dict(network.named_parameters())[name].numel() for name in names) == expected["total_parameters"]


def test_training_step(unet: Any, schedule: ddim.Schedule, extra: dict[str, Tensor]) -> None:
    case = load_file(CASES / "training_step.safetensors")
    order = json.loads((CASES / "training_step.json").read_text())["trainable_parameter_names"]
    network = inflated(unet, 4, extra)
    named = dict(network.named_parameters())
    parameters = inflation.own(network, {name: named[name] for name in order}, trainable=True)
    optimiser = torch.optim.AdamW(parameters, lr=3e-5, weight_decay=1e-2)
    noisy = ddim.add_noise(schedule, case["z0"], case["noise"], int(case["timestep"]))
    assert difference(noisy, case["z_t"]) <= 2e-6

    def loss() -> Tensor:
        return one_shot.denoising_loss(
            lambda z, t, text: run(network, z, t, text),
            schedule, case["z0"], case["text"], int(case["timestep"]), case["noise"],
        )  # fmt: skip

    value = loss()
    assert value.item() == pytest.approx(case["loss"].item(), rel=1e-4)
    gradients = torch.autograd.grad(value, parameters, retain_graph=True)
    norms = torch.stack([g.norm() for g in gradients])
    assert torch.allclose(norms, case["grad_norm_per_parameter"], rtol=1e-4, atol=0)
    assert norms.norm().item() == pytest.approx(case["total_grad_norm"].item(), rel=1e-4)
    one_shot.take_step(optimiser, torch.amp.GradScaler("cpu", enabled=False), value, 1.0)
    for name in (n.removeprefix("after.") for n in case if n.startswith("after.")):
        firm = case[f"grad_clipped.{name}"].abs() > 1e-6  # AdamW's first step is lr * sign(gradient)
        moved = network.get_parameter(name).detach()
        assert difference(moved[firm], case[f"after.{name}"][firm]) <= 1e-6
    assert loss().item() == pytest.approx(case["loss_after_step"].item(), rel=1e-4)


def test_checkpointing_changes_nothing(unet: Any, extra: dict[str, Tensor], schedule: ddim.Schedule) -> None:
    z, noise = torch.randn(2, 1, 4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1))
    gradients = []
    for wanted in (False, True):
        network = inflated(unet, 2, extra)
        named = dict(network.named_parameters())
        names = one_shot.trainable_names(network, TRAINABLE)
        parameters = inflation.own(network, {name: named[name] for name in names}, trainable=True)
        one_shot.checkpoint(network, z, wanted)
        predict = lambda z, t, text, network=network: run(network, z, t, text)  # noqa: E731
        value = one_shot.denoising_loss(predict, schedule, z, text, 401, noise)
        gradients.append(torch.autograd.grad(value, parameters))
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*gradients, strict=True))


@torch.no_grad()
def test_inversion(unet: Any, schedule: ddim.Schedule, extra: dict[str, Tensor]) -> None:
    case = load_file(CASES / "ddim_inversion.safetensors")
    network = inflated(unet, 4, extra)
    walked = inversion.walk(lambda z, t: run(network, z, t, case["empty_text"]), schedule, case["z0"], 8)
    assert walked.timesteps.tolist() == sorted(case["timesteps"].tolist())
    assert difference(walked.latents[:, 0], case["trajectory"]) <= 1e-4


@torch.no_grad()
def test_sampling(unet: Any, schedule: ddim.Schedule, extra: dict[str, Tensor]) -> None:
    case = load_file(CASES / "end_to_end_sample.safetensors")
    network = inflated(unet, 4, extra)
    text = cfg.Branches(case["uncond_text"], case["target_text"])
    latents = case["z_T"]
    assert schedule.timesteps(8) == case["timesteps"].tolist()
    for i, t in enumerate(schedule.timesteps(8)):
        output = cfg.guided(lambda z, t, text: run(network, z, t, text), latents, t, text, 12.5)
        latents = ddim.step(schedule, output, latents, level=t, to=t - 125)
        assert difference(latents[0], case["trajectory"][i]) <= 2e-3


def test_processors_are_given_back(unet: Any) -> None:
    before = dict(unet.attn_processors)
    with pytest.raises(RuntimeError, match="mid-edit"), installed(unet, routed(sparse_causal(2))):
        lent = dict(unet.attn_processors)
        assert [name for name in lent if lent[name] is not before[name]] == [n for n in before if "attn1" in n]
        raise RuntimeError("mid-edit")
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
