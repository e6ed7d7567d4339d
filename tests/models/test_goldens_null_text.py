"""Null-text optimisation against numbers of the published code, on one frame."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange, repeat
from safetensors.torch import load_file

from models.guidance import cfg
from models.inversion import ddim as inversion
from models.inversion import null_text
from models.schedules import ddim

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def schedule():
    return ddim.Schedule.from_config(DDIMScheduler.load_config(GOLDEN / "tiny_sd/scheduler"))


@pytest.fixture(scope="module")
def denoise():
    unet = UNet2DConditionModel.from_pretrained(GOLDEN / "tiny_sd/unet", use_safetensors=True).eval()
    unet.requires_grad_(False)

    def predict(latents, t, text):
        folded = rearrange(latents, "b c f h w -> (b f) c h w")
        text = repeat(text, "b n d -> (b f) n d", f=latents.shape[2])
        output = unet(folded, t, encoder_hidden_states=text, return_dict=False)[0]
        return rearrange(output, "(b f) c h w -> b c f h w", b=len(latents))

    return predict


@pytest.mark.parametrize("case", ["few_steps", "early_stop"])
def test_recorded_run(case, schedule, denoise):
    given = json.loads((GOLDEN / f"null_text/{case}.json").read_text())["parameters"]
    tensors = load_file(GOLDEN / f"null_text/{case}.safetensors")
    cond, uncond, guidance = tensors["cond"], tensors["uncond"], given["guidance"]
    trajectory = inversion.walk(
        lambda z, t: denoise(z, t, cond), schedule, tensors["z0"][:, :, None], given["steps"]
    ).latents
    assert (trajectory[:, 0, :, 0] - tensors["inversion"]).abs().max() < 1e-4
    result = null_text.optimise(
        denoise,
        schedule,
        trajectory,
        cond,
        uncond,
        guidance,
        inner_steps=given["inner_steps"],
        early_stop=given["early_stop_epsilon"],
    )
    assert [len(history) for history in result.losses] == tensors["inner_steps_done"].tolist()
    for history, recorded in zip(result.losses, tensors["losses"], strict=True):
        torch.testing.assert_close(torch.tensor(history), recorded[: len(history)], rtol=1e-3, atol=0)
    assert (result.null_embeds[:, 0] - tensors["uncond_optimised"]).abs().mean() < 1e-4
    z, stride = trajectory[-1], schedule.stride(given["steps"])
    for i, t in enumerate(tensors["timesteps"].tolist()):
        text = cfg.Branches(result.null_embeds[i], cond)
        with torch.no_grad():
            z = ddim.step(schedule, cfg.guided(denoise, z, t, text, guidance), z, level=t, to=t - stride)
        assert (z[0, :, 0] - tensors["latents"][i]).abs().max() < 2e-3


def test_each_frame_has_its_own_embedding(schedule, denoise):
    tensors = load_file(GOLDEN / "null_text/few_steps.safetensors")
    generator = torch.Generator().manual_seed(1)
    trajectory = torch.randn(4, 1, 4, 2, 16, 16, generator=generator)
    alone = trajectory[:, :, :, 1:]
    options = {"inner_steps": 2, "per_frame": True}
    both = null_text.optimise(denoise, schedule, trajectory, tensors["cond"], tensors["uncond"], 7.5, **options)
    one = null_text.optimise(denoise, schedule, alone, tensors["cond"], tensors["uncond"], 7.5, **options)
    assert both.null_embeds.shape == (3, 2, 77, 32)
    assert (both.null_embeds[:, 0] - both.null_embeds[:, 1]).abs().max() > 1e-3
    assert (both.null_embeds[:, 1] - one.null_embeds[:, 0]).abs().mean() < 1e-4


def test_nothing_is_optimised_in_zero_steps(schedule, denoise):
    tensors = load_file(GOLDEN / "null_text/few_steps.safetensors")
    trajectory = torch.zeros(3, 1, 4, 1, 16, 16)
    result = null_text.optimise(denoise, schedule, trajectory, tensors["cond"], tensors["uncond"], 7.5, inner_steps=0)
    assert result.losses == ((), ())
    assert torch.equal(result.null_embeds[1], tensors["uncond"])
