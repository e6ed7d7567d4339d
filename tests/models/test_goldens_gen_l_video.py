"""Gen-L-Video: windows, prompts along time, attention and co-denoising, against the published code's numbers."""

import json
from dataclasses import dataclass, field

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from models.attention.anchored import anchored
from models.attention.installed import RoutedAttention
from models.backbones import tiny
from models.backbones.backbone import Backbone
from models.context import Context
from models.inversion import ddim as inversion
from models.methods.gen_l_video import GenLVideo
from models.params import guarded
from models.propagation import windows
from models.schedules.ddim import Schedule, step
from models.types import Clip, Fitted, Trajectory
from tests.models import recorded
from tests.models.recorded import close

SCHEDULER = DDIMScheduler.load_config(recorded.GOLDEN / "tiny_sd/scheduler")


def load(case):
    return recorded.load("gen_l_video", case)


def cases(prefix):
    return sorted(path.stem for path in (recorded.GOLDEN / "gen_l_video").glob(f"{prefix}*.json"))


def test_windows():
    described, tensors = load("windows")
    for number, given in enumerate(described["parameters"]["combos"]):
        frames, size, stride = given["frames"], given["window"], given["stride"]
        over = windows.windows(frames, size, stride, cover_tail=False)
        assert torch.equal(torch.tensor(over), tensors[f"out.views_{number}"].long())
        count = windows.merged(torch.ones(1, 1, frames, 1, 1), over, lambda part, _: part)[0, 0, :, 0, 0]
        assert torch.equal(count > 0, tensors[f"out.coverage_{number}"] > 0)
        covering = windows.windows(frames, size, stride)
        assert covering[: len(over)] == over and covering[-1][1] == frames
        assert (len(covering) > len(over)) == (given["uncovered_frames"] > 0)


def test_prompts_along_time():
    described, tensors = load("prompt_schedule")
    for number, given in enumerate(described["parameters"]["combos"]):
        chosen = windows.prompt_of(given["windows"], given["prompts"], given["window"], given["stride"])
        assert torch.equal(torch.tensor(chosen), tensors[f"out.prompt_of_entry_{number}"].long())
    for count in (1, 2, 3, 7, 30):
        chosen = windows.prompt_of(count, 4, 16, 4)
        assert len(chosen) == count and chosen == sorted(chosen) and chosen[0] == 0
        assert count == 1 or chosen[-1] == 3


@pytest.mark.parametrize("case", cases("bicrossframe"))
def test_attention(case):
    described, tensors = load(case)
    given, attn = described["parameters"], nn.Module()
    attn.heads = given["heads"]
    for name in ("to_q", "to_k", "to_v"):
        setattr(attn, name, lambda x, weight=tensors[f"in.{name}.weight"]: x @ weight.T)
    attn.to_out = [lambda x: x @ tensors["in.to_out.weight"].T + tensors["in.to_out.bias"], nn.Identity()]
    close(RoutedAttention(anchored(given["frames"]))(attn, tensors["in.x"]), tensors["out.y"], 5e-6)


@pytest.mark.parametrize("case", cases("merge"))
def test_inversion_in_windows(case):
    """The mean of the next latents, as published, and the mean of the outputs, as loops that know no windows see it."""
    described, tensors = load(case)
    given, schedule = described["parameters"], Schedule.from_config(SCHEDULER)
    covered = "coverage" in given and min(given["coverage"]) > 0
    over = windows.windows(given["frames"], given["window"], given["stride"], cover_tail=covered)
    levels = [tensors["in.z0"]]
    for index, (_, level, to) in enumerate(inversion.plan(schedule, given["steps"])):

        def move(part, number, index=index, level=level, to=to):
            return step(schedule, tensors["in.noise_pred"][index, number][None], part, level=level, to=to)

        levels.append(windows.merged(levels[-1], over, move))
    close(torch.cat(levels), tensors["out.levels"], 1e-5)
    if covered:
        outputs = iter(tensors["in.noise_pred"].flatten(0, 1)[:, None])
        denoise = windows.co_denoised(lambda part, t: next(outputs), over)
        walked = inversion.walk(denoise, schedule, tensors["in.z0"], given["steps"])
        close(walked.latents[:, 0], tensors["out.levels"], 1e-5)


@dataclass(eq=False)
class Texts(Backbone):
    """The recorded network with recorded text; remembers how many frames were asked about at a time."""

    texts: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)

    def encode_text(self, prompts):
        return torch.cat([self.texts[text] for text in prompts])

    def predict(self, latents, t, embeds, *, unet=None, control=None):
        self.seen.append(latents.shape[2])
        return super().predict(latents, t, embeds, unet=unet, control=control)


@pytest.mark.parametrize("case", cases("codenoise"))
@torch.no_grad()
def test_co_denoising(case):
    described, tensors = load(case)
    given = described["parameters"]
    prompts = [f"prompt {i}" for i in range(given["prompts"])]
    texts = {"": tensors["in.text_uncond"], **dict(zip(prompts, tensors["in.text_cond"].split(1), strict=True))}
    backbone = Texts(
        tokenizer=None,
        text_encoder=nn.Identity(),
        vae=nn.Identity(),
        unet=UNet2DConditionModel.from_pretrained(recorded.GOLDEN / "tiny_sd/unet", use_safetensors=True),
        scheduler_config=SCHEDULER,
        checkpoint="golden",
        digest="",
        native_size=128,
        device=torch.device("cpu"),
        dtype=torch.float32,
        texts=texts,
    )
    p = GenLVideo.Params(
        prompt=prompts[0],
        later_prompts=tuple(prompts[1:]) or None,
        window=given["window"],
        window_stride=given["stride"],
        num_inference_steps=given["steps"],
        guidance_scale=given["guidance_scale"],
    )
    z = tensors["in.z_T"]
    clip = Clip(torch.zeros(given["frames"], 3, 128, 128), z, 8.0, 128, 128)
    ends = Trajectory(torch.stack([z, z]), torch.tensor([given["timesteps"][0]]))
    latents = GenLVideo().edit(Context(backbone, "edit"), p, clip, Fitted({}), ends)
    close(latents, tensors[f"out.x_after_step{given['steps'] - 1}"], 2e-4)
    assert backbone.seen == [given["window"]] * (given["steps"] * len(given["views"]))


@torch.no_grad()
def test_strength_stops_the_inversion_where_sampling_begins():
    backbone = tiny.make()
    frames = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = Clip(frames, backbone.encode_frames(frames), 8.0, 64, 64)
    p = GenLVideo.Params(prompt="a red bear", num_inference_steps=10, strength=0.3, window=3, window_stride=2)
    trajectory = GenLVideo().invert(Context(backbone, "invert"), guarded(p, "invert"), clip, Fitted({}))
    schedule = Schedule.from_config(backbone.scheduler_config)
    assert trajectory.timesteps.tolist() == [schedule.timesteps(10)[-3]]
    before = backbone.frame_evals
    edited = GenLVideo().edit(Context(backbone, "edit"), p, clip, Fitted({}), trajectory)
    assert edited.shape == clip.latents.shape
    assert backbone.frame_evals - before == 3 * 2 * 2 * 3  # steps, windows, branches, frames of a window


@torch.no_grad()
def test_guidance_off_retraces_the_source():
    """With the source's prompt and no guidance, co-denoising undoes co-inversion, whatever the windows."""
    backbone = tiny.make()
    frames = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = Clip(frames, backbone.encode_frames(frames), 8.0, 64, 64)
    p = GenLVideo.Params(
        prompt="a red bear",
        inversion_prompt="a red bear",
        guidance_scale=1,
        num_inference_steps=50,
        strength=0.3,
        window=4,
        window_stride=2,
    )
    trajectory = GenLVideo().invert(Context(backbone, "invert"), guarded(p, "invert"), clip, Fitted({}))
    edited = GenLVideo().edit(Context(backbone, "edit"), p, clip, Fitted({}), trajectory)
    assert (edited - clip.latents).abs().mean() < 0.05 * clip.latents.abs().mean()


def test_tuning_on_random_windows_learns_and_is_used():
    backbone = tiny.make()
    frames = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = Clip(frames, backbone.encode_frames(frames), 8.0, 64, 64)
    p = GenLVideo.Params(
        prompt="a red bear", num_tuning_steps=3, learning_rate=1e-2, num_inference_steps=2, window=3, window_stride=1
    )
    with torch.no_grad():
        fitted = GenLVideo().fit(Context(backbone, "fit"), guarded(p, "fit"), clip)
        ends = Trajectory(torch.stack([clip.latents] * 2), torch.tensor([501]))
        edits = [GenLVideo().edit(Context(backbone, "edit"), p, clip, fit, ends) for fit in (fitted, Fitted({}))]
    assert fitted.losses.shape == (3,)
    assert any(name.endswith("attn_temp.to_out.0.weight") and w.abs().max() > 0 for name, w in fitted.weights.items())
    assert not torch.equal(*edits)


def test_smoothing_pulls_frames_together():
    latents = torch.randn(1, 4, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = windows.smoothed(latents)
    assert torch.equal(smooth[:, :, 0], latents[:, :, 0])
    change = [x.diff(dim=2).square().mean().item() for x in (latents, smooth)]
    assert 0.9 * change[0] < change[1] < change[0]


def test_recorded_descriptions_name_their_views():
    """The windows a case was made with are those its description lists."""
    for case in cases("codenoise"):
        given = json.loads((recorded.GOLDEN / "gen_l_video" / f"{case}.json").read_text())["parameters"]
        assert windows.windows(given["frames"], given["window"], given["stride"]) == [tuple(v) for v in given["views"]]
