"""DDIM: the step rule, both inversion conventions and a whole loop against the recorded numbers."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from models.guidance import cfg
from models.inversion import ddim as inversion
from models.schedules import ddim

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def schedule() -> ddim.Schedule:
    return ddim.Schedule.from_config(DDIMScheduler.load_config(GOLDEN / "tiny_sd/scheduler"))


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(GOLDEN / "tiny_sd/unet", use_safetensors=True).eval()


def difference(actual: Tensor, expected: Tensor) -> float:
    return (actual - expected).abs().max().item()


def test_step_target_t(schedule: ddim.Schedule) -> None:
    case = load_file(GOLDEN / "ddim/step_i1.safetensors")
    for i, (t, n) in enumerate(zip(case["timestep"].tolist(), case["num_steps"].tolist(), strict=True)):
        (level, to) = next((level, to) for asked, level, to in inversion.plan(schedule, n) if asked == t)
        inverted = ddim.step(schedule, case["eps"][i], case["z"][i], level=level, to=to)
        sampled = ddim.step(schedule, case["eps"][i], case["z"][i], level=t, to=t - schedule.stride(n))
        back = ddim.step(schedule, case["eps"][i], inverted, level=to, to=level)
        assert difference(inverted, case["inverted"][i]) <= 2e-6
        assert difference(sampled, case["sampled"][i]) <= 2e-6
        assert difference(back, case["roundtrip"][i]) <= 2e-6
        assert difference(back, case["z"][i]) <= 5e-6


def test_step_current_t(schedule: ddim.Schedule) -> None:
    case = load_file(GOLDEN / "ddim/step_i2.safetensors")
    for n in (50, 100):  # the first recorded timestep is negative: nobody walks it
        asked = [t for t, _, _ in inversion.plan(schedule, n, "current_t")]
        assert asked == case[f"timesteps_{n}"].tolist()[1:]
    for i, (t, n) in enumerate(zip(case["timestep"].tolist(), case["num_steps"].tolist(), strict=True)):
        (level, to) = next((level, to) for asked, level, to in inversion.plan(schedule, n, "current_t") if asked == t)
        inverted = ddim.step(schedule, case["eps"][i], case["z"][i], level=level, to=to)
        assert difference(inverted, case["inverted"][i]) <= 2e-6


@torch.no_grad()
def test_loop(schedule: ddim.Schedule, unet: UNet2DConditionModel) -> None:
    case = load_file(GOLDEN / "ddim/loop10_2d.safetensors")
    frames = case["z0"].shape[0]

    def predict(latents: Tensor, t: int, text: Tensor) -> Tensor:
        folded = rearrange(latents, "b c f h w -> (b f) c h w")
        output = unet(folded, t, text.repeat_interleave(frames, dim=0)).sample
        return rearrange(output, "(b f) c h w -> b c f h w", f=frames)

    z0 = rearrange(case["z0"], "f c h w -> 1 c f h w")
    walked = inversion.walk(lambda z, t: predict(z, t, case["cond"]), schedule, z0, 10)
    assert walked.timesteps.tolist() == case["timesteps"].tolist()[::-1]
    assert difference(rearrange(walked.latents, "n 1 c f h w -> n f c h w"), case["inversion"]) <= 1e-4

    for scale, expected, tolerance in ((1.0, case["reconstruction"][-1], 1e-4), (7.5, case["cfg_final"], 1e-3)):
        latents = walked.latents[-1]
        for t in schedule.timesteps(10):
            text = cfg.Branches(case["uncond"], case["cond"])
            output = cfg.guided(predict, latents, t, text, scale)
            latents = ddim.step(schedule, output, latents, level=t, to=t - 100)
        assert difference(rearrange(latents, "1 c f h w -> f c h w"), expected) <= tolerance


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_step_is_diffusers_step(prediction: str, eta: float) -> None:
    theirs = DDIMScheduler.from_pretrained(GOLDEN / "tiny_sd/scheduler", prediction_type=prediction)
    ours = ddim.Schedule.from_config(theirs.config)
    theirs.set_timesteps(50)
    assert ours.timesteps(50) == theirs.timesteps.tolist()
    latents, output = torch.randn(2, 2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in (981, 501, 1):
        expected = theirs.step(output, t, latents, eta=eta, generator=torch.Generator().manual_seed(1)).prev_sample
        actual = ddim.step(
            ours, output, latents, level=t, to=t - 20, eta=eta, generator=torch.Generator().manual_seed(1)
        )
        assert difference(actual, expected) <= 2e-5 * expected.abs().max().item()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_training_target_is_read_back(prediction: str) -> None:
    schedule = ddim.Schedule.from_config(
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": prediction}
    )
    x0, noise = torch.randn(2, 1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = ddim.add_noise(schedule, x0, noise, 400)
    seen, eps = ddim.split(schedule, ddim.target(schedule, x0, noise, 400), noisy, 400)
    assert difference(seen, x0) <= 1e-5
    assert difference(eps, noise) <= 1e-5


def test_trajectory_levels(schedule: ddim.Schedule) -> None:
    z0 = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    kept = inversion.walk(lambda z, t: noise, schedule, z0, 50, keep=schedule.timesteps(10))
    assert kept.timesteps.tolist() == [*schedule.timesteps(10)[::-1], 981]
    assert torch.equal(inversion.latents_at(schedule, kept, 901), kept.latents[-2])
    # with a constant prediction every latent has the same noise, so moving one to another level must give the other
    moved = inversion.start(schedule, kept, 901)
    assert difference(moved, kept.latents[-2]) <= 1e-2
    assert torch.equal(inversion.start(schedule, kept, 981), kept.latents[-1])


def test_frames_in_parts_are_frames_together(schedule: ddim.Schedule, unet: UNet2DConditionModel) -> None:
    latents = torch.randn(1, 4, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1))
    calls = []

    @torch.no_grad()
    def predict(latents: Tensor, t: int, text: Tensor) -> Tensor:
        calls.append(latents.shape[2])
        folded = rearrange(latents, "1 c f h w -> f c h w")
        return rearrange(unet(folded, t, text.expand(len(folded), -1, -1)).sample, "f c h w -> 1 c f h w")

    parts = cfg.in_parts(predict, 2)(latents, 401, text)
    assert calls == [2, 2, 1]
    assert difference(parts, predict(latents, 401, text)) <= 1e-5


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="beta_schedule"):
        ddim.Schedule.from_config({"beta_schedule": "exotic"})
    with pytest.raises(ValueError, match="prediction_type"):
        ddim.Schedule.from_config({"prediction_type": "exotic"})
    with pytest.raises(ValueError, match="num_steps"):
        ddim.Schedule.from_config({}).timesteps(0)
