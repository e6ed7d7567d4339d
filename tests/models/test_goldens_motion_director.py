"""MotionDirector against what its published code computes, and what its parts promise."""

import pytest
import torch
from diffusers import UNet3DConditionModel
from torch import nn

from models.backbones import tiny, unet3d
from models.digest import digest_json
from models.inversion import ddim, noise_prior
from models.schedules.ddim import Schedule
from models.temporal import bypass
from models.tuning import lora, paths
from models.tuning import spatial_temporal_lora as dual
from tests.models.recorded import GOLDEN, close, load

FORGOTTEN = ("mid_block.temp_convs.0",)


@pytest.fixture(scope="module")
def backbone():
    return unet3d.Backbone3D(
        tokenizer=None,
        text_encoder=nn.Identity(),
        vae=nn.Identity(),
        unet=UNet3DConditionModel.from_pretrained(GOLDEN / "motion_director/unet3d_tiny", use_safetensors=True),
        scheduler_config=dict(tiny.SCHEDULER),
        checkpoint="golden",
        digest=digest_json("golden"),
        native_size=128,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def sets(tensors, grad=False):
    """The recorded low-rank weights, spatial and temporal, by our names."""
    parts = {"down": "lora_A", "up": "lora_B"}
    weights = {}
    for name, tensor in tensors.items():
        if name.startswith("in.lora."):
            layer, _, part = name.removeprefix("in.lora.").rpartition(".")
            weights[f"{layer}.{parts[part]}.weight"] = tensor.clone().requires_grad_(grad)
    spatial = {name: w for name, w in weights.items() if dual.SPATIAL.search(name)}
    temporal = {name: w for name, w in weights.items() if dual.TEMPORAL.search(name)}
    assert len(spatial) + len(temporal) == len(weights) and spatial and temporal
    return spatial, temporal


def test_which_layers_get_weights(backbone):
    described, tensors = load("motion_director", "lora_targets_r4")
    for kind, names in (
        ("temporal", dual.temporal_layers(backbone.unet)),
        ("spatial", dual.spatial_layers(backbone.unet)),
    ):
        assert names == described["parameters"][kind]
        made = dual.create(backbone.unet, names, described["parameters"]["rank"], torch.Generator())
        sizes = [(made[f"{n}.lora_A.weight"].shape, made[f"{n}.lora_B.weight"].shape) for n in names]
        found = torch.tensor([[down[1], up[0], down[0]] for down, up in sizes])
        assert torch.equal(found, tensors[f"out.{kind}_in_out_rank"].long())


@pytest.mark.parametrize("case", ["unet_lora_forward_1f", "unet_lora_forward_4f"])
@torch.no_grad()
def test_network_with_weights(backbone, case):
    described, tensors = load("motion_director", case)
    spatial, temporal = sets(tensors)
    alone = described["parameters"]["frames"] == 1
    network = bypass.without_frames(backbone.unet, FORGOTTEN) if alone else backbone.unet
    temporal = {} if alone else temporal  # nothing is there to put them on
    chosen = {
        "no_lora": (0.0, 0.0),
        "spatial_only": (1.0, 0.0),
        "temporal_only": (0.0, 1.0),
        "both": (1.0, 1.0),
        "temporal_scaled": (0.0, described["parameters"]["temporal_scaled_factor"]),
    }
    for name, (looks, motion) in chosen.items():
        with lora.applied(network, spatial, scale=looks), lora.applied(network, temporal, scale=motion):
            t = described["parameters"]["timestep"]
            output = backbone.predict(tensors["in.z"], t, tensors["in.text"], unet=network)
        close(output, tensors[f"out.{name}"], 2e-5)


def test_weights_are_merged_as_they_were_tuned(backbone):
    _, tensors = load("motion_director", "unet_lora_forward_4f")
    spatial, temporal = sets(tensors)
    for name, motion, looks in (("temporal_only", 1.0, 0.0), ("both", 1.0, 1.0), ("temporal_scaled", 0.5, 0.0)):
        network = paths.over_frames(backbone.unet, 4, torch.Generator())
        dual.load(network, {**temporal, **spatial}, temporal_scale=motion, spatial_scale=looks)
        output = backbone.predict(tensors["in.z"], 401, tensors["in.text"], unet=network)
        close(output, tensors[f"out.{name}"], 2e-5)


@pytest.mark.parametrize("case", ["losses_5f", "losses_masked_spatial_4f"])
def test_losses_and_gradients(backbone, case):
    described, tensors = load("motion_director", case)
    spatial, temporal = sets(tensors, grad=True)
    masked = described["parameters"]["mask_spatial_lora"]
    schedule = Schedule.from_config(backbone.scheduler_config)
    given = [tensors["in.latents"], tensors["in.text"], int(tensors["in.timestep"]), tensors["in.noise"]]
    anchor, beta = int(tensors["in.frame_anchor"]), float(described["parameters"]["beta_debias"])
    network = backbone.unet
    with dual.tuned(network, temporal), dual.tuned(network, {} if masked else spatial):
        predict = paths.denoiser(backbone, network)
        loss = dual.temporal_loss(predict, schedule, *given, anchor=anchor, beta=beta)
    close_to(loss, tensors["out.loss_temporal"], 1e-5)
    check_gradients(loss, {**spatial, **temporal}, tensors, "temporal")
    if masked:
        return
    network = paths.each_frame(backbone.unet, FORGOTTEN)
    with dual.tuned(network, spatial):
        predict = paths.denoiser(backbone, network)
        loss = dual.spatial_loss(predict, schedule, *given, frame=int(tensors["in.frame_spatial"]))
    close_to(loss, tensors["out.loss_spatial"], 1e-5)
    check_gradients(loss, spatial, tensors, "spatial")


def close_to(actual, expected, relative):
    torch.testing.assert_close(actual.detach(), expected, rtol=relative, atol=0)


def check_gradients(loss, weights, tensors, kind):
    parts = {"down": "lora_A", "up": "lora_B"}
    recorded = {name: g for name, g in tensors.items() if name.startswith(f"out.grad_{kind}.")}
    assert recorded
    for weight in weights.values():
        weight.grad = None
    loss.backward()
    for name, expected in recorded.items():
        layer, _, part = name.removeprefix(f"out.grad_{kind}.").rpartition(".")
        grad = weights[f"{layer}.{parts[part]}.weight"].grad
        found = torch.zeros_like(expected) if grad is None else grad  # a set left out does not learn
        close(found, expected, 1e-4 * float(expected.abs().max()))


def test_inversion(backbone):
    _, tensors = load("motion_director", "inversion_4f_5s")
    schedule = Schedule.from_config(backbone.scheduler_config)

    def denoise(latents, t):
        return backbone.predict(latents, t, tensors["in.text_empty"])

    walked = ddim.walk(denoise, schedule, tensors["in.z0"], 5)
    close(walked.latents[:, 0], tensors["out.levels"], 2e-5)


@pytest.mark.parametrize("case", ["noise_prior_same_size", "noise_prior_resized"])
def test_noise_prior(case):
    described, tensors = load("motion_director", case)
    share, fresh = described["parameters"]["noise_prior"], tensors["in.fresh_noise"]
    mixed = noise_prior.mixed(tensors["in.inversion_noise"][None], fresh, share)
    close(mixed, tensors["out.latents"], 1e-3)
    assert torch.equal(noise_prior.mixed(fresh, fresh * 2, 1.0), fresh)


@torch.no_grad()
def test_without_its_layers_over_frames_a_network_sees_each_frame_alone():
    backbone = unet3d.make_tiny()
    latents = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    text = backbone.encode_text(["a red bear"])
    network = paths.each_frame(backbone.unet)
    together = backbone.predict(latents, 401, text, unet=network)
    alone = [backbone.predict(frame, 401, text, unet=network) for frame in latents.split(1, dim=2)]
    close(together, torch.cat(alone, dim=2), 1e-5)
    assert not torch.allclose(together, backbone.predict(latents, 401, text), atol=1e-3)
    shared = {id(parameter) for parameter in backbone.unet.parameters()}
    assert all(id(parameter) in shared for parameter in network.parameters())
